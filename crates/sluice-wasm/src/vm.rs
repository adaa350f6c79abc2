//! Instances of modules.
//!
//! Owns: how an instance begins, its contexts, and calls of its functions within their bounds. Refuses to know: requests, and when
//! an instance is replaced. Keeps: an instance that failed once is not called again, as nothing in it can be trusted to be whole.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use sluice_io::WorkerCx;
use sluice_sys::loan::Loan;
use wasmtime::{Store, UpdateDeadline, Val};

use crate::call::{Calls, GuestCall, NoMessage};
use crate::conn_call::GuestConnCall;
use crate::conn_facts::GuestConnFacts;
use crate::engine;
use crate::failure::{BudgetUsed, GuestFailure, GuestFailureKind};
use crate::hooks::{GuestHook, GuestHooks};
use crate::limits::CONTEXTS;
use crate::module::CompiledModule;
use crate::pairs::FieldPair;
use crate::plugin::{PluginFacts, VmSetup};
use crate::state::{GuestEvents, HostState, SideCallAnswer};
use crate::stream::{Arrival, ArrivedCall, GuestCallEnd, StreamCell};

/// An instance.
pub(crate) struct Vm {
    store: RefCell<Store<HostState>>,
    hooks: GuestHooks,
    loan: Rc<Loan<Calls>>,
    failed: RefCell<Option<GuestFailure>>,
    /// Of the last context.
    context: Cell<u32>,
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vm({:?})", self.failed.borrow())
    }
}

impl Vm {
    /// Begins an instance; without a worker to find out whether it can.
    ///
    /// # Errors
    /// It cannot begin.
    pub(crate) fn start(
        module: &CompiledModule,
        setup: &Arc<VmSetup>,
        worker: Option<&Rc<WorkerCx>>,
    ) -> Result<Rc<Self>, GuestFailure> {
        let mut failure = None;
        let made = Rc::new_cyclic(|me: &Weak<Self>| {
            let events: Weak<dyn GuestEvents> = me.clone();
            let loan = Rc::new(Loan::default());
            let state = HostState::new(&loan, setup, worker, events, module.version);
            let mut store = Store::new(module.instances.module().engine(), state);
            let hooks = begin(module, &mut store).unwrap_or_else(|why| {
                failure = Some(why);
                GuestHooks::none()
            });
            let (failed, context) = (RefCell::default(), Cell::new(0));
            Self { store: RefCell::new(store), hooks, loan, failed, context }
        });
        match failure {
            None => Ok(made),
            Some(why) => Err(why),
        }
    }

    /// Why it cannot be called any more.
    pub(crate) fn failure(&self) -> Option<GuestFailure> {
        self.failed.borrow().clone()
    }

    /// The bytes of its memory.
    pub(crate) fn memory_used(&self) -> usize {
        self.store.try_borrow().map_or(0, |store| store.data().bounds.used)
    }

    /// Bytes of its memory.
    #[cfg(any(test, feature = "hostile"))]
    pub(crate) fn peek(&self, at: u32, length: usize) -> Vec<u8> {
        let store = self.store.borrow();
        let memory = store.data().memory.map(|memory| memory.data(&*store));
        let from = memory.and_then(|bytes| bytes.get(at as usize..));
        from.map_or_else(Vec::new, |bytes| bytes[..length.min(bytes.len())].to_vec())
    }

    /// Whether the guest has a function.
    pub(crate) fn has(&self, hook: GuestHook) -> bool {
        self.hooks.has(hook)
    }

    /// The root context of a use, made if there is none.
    ///
    /// # Errors
    /// The guest failed, or refuses its configuration.
    pub(crate) fn root(&self, plugin: &Arc<PluginFacts>) -> Result<Rc<StreamCell>, GuestFailure> {
        self.forget_roots();
        let known = {
            let store = self.store.borrow();
            let mut contexts = store.data().contexts.values();
            contexts.find(|of| of.id == of.root && of.plugin().is_same(plugin)).cloned()
        };
        if let Some(known) = known {
            known.adopt(plugin);
            return Ok(known);
        }
        let id = self.next_context();
        let cell = StreamCell::new(id, id, Arc::clone(plugin), None);
        self.keep(&cell)?;
        self.tell(id, GuestHook::ContextCreate, &[id, 0])?;
        let length = |bytes: &bytes::Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let vm_config = length(&self.store.borrow().data().setup.config);
        for (hook, config) in
            [(GuestHook::VmStart, vm_config), (GuestHook::Configure, length(&plugin.config))]
        {
            if self.tell(id, hook, &[id, config])? == Some(0) {
                let message = format!("{}: it refuses its configuration", hook.name());
                let failure = GuestFailure::new(GuestFailureKind::Down, &message);
                *self.failed.borrow_mut() = Some(failure.clone());
                return Err(failure);
            }
        }
        Ok(cell)
    }

    /// Ends the root contexts that nothing uses any more.
    fn forget_roots(&self) {
        let unused: Vec<u32> = {
            let store = self.store.borrow();
            let state = store.data();
            let used =
                |root: u32| state.contexts.values().any(|of| of.root == root && of.id != root);
            let roots = state.contexts.values().filter(|of| of.id == of.root);
            let unused = roots.filter(|of| Rc::strong_count(of) == 1 && !used(of.id));
            unused.map(|of| of.id).collect()
        };
        for id in unused {
            for hook in [GuestHook::Done, GuestHook::Delete] {
                // A failure is seen by the next call.
                let _ = self.tell(id, hook, &[id]);
            }
            self.forget(id);
        }
    }

    /// Begins the context of a request.
    ///
    /// # Errors
    /// The guest failed, or has too many.
    pub(crate) fn stream(
        &self,
        root: &StreamCell,
        call: &mut (dyn GuestCall + '_),
    ) -> Result<Rc<StreamCell>, GuestFailure> {
        let cell = StreamCell::new(self.next_context(), root.id, root.plugin(), None);
        self.create(cell, call)
    }

    /// Begins the context of a connection.
    ///
    /// # Errors
    /// As of a request.
    pub(crate) fn connection(
        &self,
        root: &StreamCell,
        facts: &Rc<GuestConnFacts>,
    ) -> Result<Rc<StreamCell>, GuestFailure> {
        let id = self.next_context();
        let cell = StreamCell::new(id, root.id, root.plugin(), Some(Rc::clone(facts)));
        self.create(cell, &mut GuestConnCall::new(facts))
    }

    fn create(
        &self,
        cell: Rc<StreamCell>,
        call: &mut (dyn GuestCall + '_),
    ) -> Result<Rc<StreamCell>, GuestFailure> {
        self.keep(&cell)?;
        let made = self.call(cell.id, GuestHook::ContextCreate, &[cell.id, cell.root], call);
        made.inspect_err(|_| self.forget(cell.id)).map(|_| cell)
    }

    /// Ends the context of a request or connection.
    pub(crate) fn end(&self, cell: &StreamCell, call: &mut (dyn GuestCall + '_)) {
        for hook in [GuestHook::Done, GuestHook::Log, GuestHook::Delete] {
            if self.call(cell.id, hook, &[cell.id], call).is_err() {
                break;
            }
        }
        self.forget(cell.id);
    }

    /// Calls a function of the guest about a context; `None` if it has no such function.
    ///
    /// # Errors
    /// It failed, now or before.
    pub(crate) fn call(
        &self,
        context: u32,
        hook: GuestHook,
        args: &[u32],
        call: &mut (dyn GuestCall + '_),
    ) -> Result<Option<u32>, GuestFailure> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let Some((func, params, results)) = self.hooks.get(hook) else { return Ok(None) };
        let mut given = [const { Val::I32(0) }; 5];
        for (place, arg) in given.iter_mut().zip(args) {
            *place = Val::I32(arg.cast_signed());
        }
        let mut returned = [Val::I32(0)];
        let mut store = self.store.borrow_mut();
        store.data_mut().begin(context);
        store.set_epoch_deadline(1);
        engine::note_run();
        let run = || func.call(&mut *store, &given[..params], &mut returned[..results]);
        match self.loan.lend(call, run) {
            Ok(()) => Ok(returned[0].i32().filter(|_| results > 0).map(i32::cast_unsigned)),
            Err(error) => {
                let failure = GuestFailure::of(hook.name(), &error);
                let failure = with_memory(failure, store.data());
                *self.failed.borrow_mut() = Some(failure.clone());
                Err(failure)
            }
        }
    }

    /// Tells a guest what arrived of a call: with the number of the root context, as SDKs expect, though operations are about
    /// the context that called until the guest says otherwise.
    ///
    /// # Errors
    /// It failed.
    pub(crate) fn deliver(
        &self,
        context: u32,
        arrived: ArrivedCall,
        call: &mut (dyn GuestCall + '_),
    ) -> Result<(), GuestFailure> {
        let ArrivedCall { token, what } = arrived;
        let number = |of: usize| u32::try_from(of).unwrap_or(u32::MAX);
        let (hook, numbers, answer) = match what {
            Arrival::Http(end) => {
                let of = answer_of(*end);
                let numbers = [of.headers.len(), of.body.len(), of.trailers.len()].map(number);
                (GuestHook::CallResponse, numbers, of)
            }
            Arrival::GrpcHeaders(headers) => {
                let numbers = [number(headers.len()), 0, 0];
                (GuestHook::GrpcHeaders, numbers, SideCallAnswer { headers, ..Default::default() })
            }
            Arrival::GrpcMessage(body) => {
                let numbers = [number(body.len()), 0, 0];
                (GuestHook::GrpcMessage, numbers, SideCallAnswer { body, ..Default::default() })
            }
            Arrival::GrpcTrailers(trailers) => {
                let numbers = [number(trailers.len()), 0, 0];
                (
                    GuestHook::GrpcTrailers,
                    numbers,
                    SideCallAnswer { trailers, ..Default::default() },
                )
            }
            Arrival::GrpcEnd(status, text) => {
                self.store.borrow_mut().data_mut().grpc_status = (status, text);
                (GuestHook::GrpcEnd, [status, 0, 0], SideCallAnswer::default())
            }
        };
        {
            let mut store = self.store.borrow_mut();
            let state = store.data_mut();
            let ends = match hook {
                GuestHook::GrpcEnd => true,
                GuestHook::GrpcMessage => {
                    state.grpc_calls.get(&token).is_some_and(|link| !link.is_stream)
                }
                _ => false,
            };
            if ends {
                state.grpc_calls.remove(&token);
            }
            match hook {
                GuestHook::CallResponse => state.answer = Some(answer),
                _ => state.grpc = Some(answer),
            }
        }
        let [first, second, third] = numbers;
        let root = self.store.borrow().data().contexts.get(&context).map_or(context, |of| of.root);
        let done = self.call(context, hook, &[root, token, first, second, third], call);
        let mut store = self.store.borrow_mut();
        let state = store.data_mut();
        (state.answer, state.grpc) = (None, None);
        done.map(drop)
    }

    fn tell(
        &self,
        context: u32,
        hook: GuestHook,
        args: &[u32],
    ) -> Result<Option<u32>, GuestFailure> {
        self.call(context, hook, args, &mut NoMessage)
    }

    fn next_context(&self) -> u32 {
        // 0 is no context; those that are left from before the numbers began again are few.
        let contexts = self.store.borrow();
        loop {
            let next = self.context.get().wrapping_add(1).max(1);
            self.context.set(next);
            if !contexts.data().contexts.contains_key(&next) {
                return next;
            }
        }
    }

    fn keep(&self, cell: &Rc<StreamCell>) -> Result<(), GuestFailure> {
        let mut store = self.store.borrow_mut();
        if store.data().contexts.len() >= CONTEXTS {
            store.data().count_limit("contexts");
            let message = format!("the instance has {CONTEXTS} contexts already");
            return Err(GuestFailure::new(GuestFailureKind::Down, &message));
        }
        store.data_mut().contexts.insert(cell.id, Rc::clone(cell));
        Ok(())
    }

    fn forget(&self, id: u32) {
        let mut store = self.store.borrow_mut();
        let state = store.data_mut();
        state.ticks.remove(&id);
        state.grpc_calls.retain(|_, link| link.context != id);
        if let Some(cell) = state.contexts.remove(&id) {
            cell.end();
        }
    }

    /// Whether a root context is still there.
    fn has_root(&self, root: u32) -> bool {
        self.failure().is_none() && self.store.borrow().data().contexts.contains_key(&root)
    }

    /// Writes a failure outside of requests to the log.
    fn log(&self, done: Result<(), GuestFailure>) {
        if let Err(failure) = done {
            tracing::warn!(reason = failure.reason().code(), "{}", failure.message);
        }
    }
}

impl GuestEvents for Vm {
    fn arrived(&self, context: u32, call: ArrivedCall) {
        if self.failure().is_some() {
            return;
        }
        let cell = self.store.borrow().data().contexts.get(&context).cloned();
        let done = match cell.as_ref().and_then(|cell| cell.connection.as_ref()) {
            Some(facts) => self.deliver(context, call, &mut GuestConnCall::new(facts)),
            None => self.deliver(context, call, &mut NoMessage),
        };
        self.log(done);
    }

    fn ticked(&self, root: u32) -> Option<Duration> {
        let is_on = || self.store.borrow().data().ticks.get(&root).copied().flatten();
        if self.has_root(root) && is_on().is_some() {
            self.log(self.tell(root, GuestHook::Tick, &[root]).map(drop));
        }
        let next = is_on().filter(|_| self.has_root(root));
        if next.is_none() {
            self.store.borrow_mut().data_mut().ticks.remove(&root);
        }
        next
    }

    fn queue_filled(&self, root: u32, queue: u32) -> bool {
        if !self.has_root(root) {
            return false;
        }
        self.log(self.tell(root, GuestHook::QueueReady, &[root, queue]).map(drop));
        true
    }
}

/// Instantiates a module and calls what initialises it.
fn begin(
    module: &CompiledModule,
    store: &mut Store<HostState>,
) -> Result<GuestHooks, GuestFailure> {
    store.limiter(|state| &mut state.bounds);
    store.epoch_deadline_callback(|mut of| {
        engine::note_run();
        if of.data_mut().is_late() {
            return Err(wasmtime::Error::new(BudgetUsed));
        }
        Ok(UpdateDeadline::Continue(1))
    });
    store.data_mut().begin(0);
    store.set_epoch_deadline(1);
    engine::note_run();
    let made = module.instances.instantiate(&mut *store);
    let instance =
        made.map_err(|error| with_memory(GuestFailure::of("start", &error), store.data()))?;
    store.data_mut().memory = instance.get_memory(&mut *store, "memory");
    let allocate = ["proxy_on_memory_allocate", "malloc"].into_iter();
    let mut allocate =
        allocate.filter_map(|name| instance.get_typed_func::<u32, u32>(&mut *store, name).ok());
    let allocate = allocate.next();
    store.data_mut().allocate = allocate;
    for name in ["_initialize", "_start"] {
        if let Ok(initialise) = instance.get_typed_func::<(), ()>(&mut *store, name) {
            let done = initialise.call(&mut *store, ());
            done.map_err(|error| with_memory(GuestFailure::of(name, &error), store.data()))?;
            break;
        }
    }
    Ok(GuestHooks::of(&instance, store))
}

/// Guests trap when they get no memory; they do not say why.
fn with_memory(failure: GuestFailure, state: &HostState) -> GuestFailure {
    if !state.bounds.reached {
        return failure;
    }
    let bytes = state.setup.limits.memory;
    let message = format!("{} (it asked for more than {bytes} bytes of memory)", failure.message);
    GuestFailure::new(failure.kind, &message)
}

/// A call without a response has none of the parts of one.
fn answer_of(end: GuestCallEnd) -> SideCallAnswer {
    let Ok(response) = end else { return SideCallAnswer::default() };
    let pair = |(name, value): (&[u8], &[u8])| (name.to_ascii_lowercase(), value.to_vec());
    let status = response.head.status().to_string().into_bytes();
    let mut headers: Vec<FieldPair> = vec![(b":status".to_vec(), status)];
    headers.extend(response.head.fields().map(pair));
    let trailers = response.trailers.iter().flat_map(|of| of.fields()).map(pair).collect();
    SideCallAnswer { headers, body: response.body.clone(), trailers }
}
