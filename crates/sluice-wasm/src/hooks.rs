//! The functions of a guest that the host calls.
//!
//! Owns: their names and what they are called with. Refuses to know: when. Keeps: a module whose function has another form is
//! refused before it runs.

use wasmtime::{ExternType, Func, FuncType, Instance, Module, Store, ValType};

use crate::state::HostState;

macro_rules! hooks {
    ($($hook:ident = $name:literal, $params:literal, $older:literal, $results:literal;)+) => {
        /// A function that the host calls.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum GuestHook { $($hook),+ }

        /// Name, parameters, parameters in 0.1.0, and results of each.
        const TABLE: &[(&str, usize, usize, usize)] = &[$(($name, $params, $older, $results)),+];
    };
}

hooks! {
    VmStart = "proxy_on_vm_start", 2, 2, 1;
    Configure = "proxy_on_configure", 2, 2, 1;
    ContextCreate = "proxy_on_context_create", 2, 2, 0;
    Tick = "proxy_on_tick", 1, 1, 0;
    QueueReady = "proxy_on_queue_ready", 2, 2, 0;
    RequestHeaders = "proxy_on_request_headers", 3, 2, 1;
    RequestBody = "proxy_on_request_body", 3, 3, 1;
    RequestTrailers = "proxy_on_request_trailers", 2, 2, 1;
    ResponseHeaders = "proxy_on_response_headers", 3, 2, 1;
    ResponseBody = "proxy_on_response_body", 3, 3, 1;
    ResponseTrailers = "proxy_on_response_trailers", 2, 2, 1;
    NewConnection = "proxy_on_new_connection", 1, 1, 1;
    DownstreamData = "proxy_on_downstream_data", 3, 3, 1;
    UpstreamData = "proxy_on_upstream_data", 3, 3, 1;
    DownstreamClose = "proxy_on_downstream_connection_close", 2, 2, 0;
    UpstreamClose = "proxy_on_upstream_connection_close", 2, 2, 0;
    CallResponse = "proxy_on_http_call_response", 5, 5, 0;
    GrpcHeaders = "proxy_on_grpc_receive_initial_metadata", 3, 3, 0;
    GrpcMessage = "proxy_on_grpc_receive", 3, 3, 0;
    GrpcTrailers = "proxy_on_grpc_receive_trailing_metadata", 3, 3, 0;
    GrpcEnd = "proxy_on_grpc_close", 3, 3, 0;
    Done = "proxy_on_done", 1, 1, 1;
    Log = "proxy_on_log", 1, 1, 0;
    Delete = "proxy_on_delete", 1, 1, 0;
}

impl GuestHook {
    /// The name in the module.
    pub(crate) const fn name(self) -> &'static str {
        TABLE[self as usize].0
    }
}

/// Name, number of parameters and number of results of each.
#[cfg(any(test, feature = "hostile"))]
pub(crate) fn forms() -> impl Iterator<Item = (&'static str, usize, usize)> {
    TABLE.iter().map(|(name, params, _, results)| (*name, *params, *results))
}

/// Checks the forms of the functions that a module has.
///
/// # Errors
/// The first that has another.
pub(crate) fn check(module: &Module) -> Result<(), String> {
    for (name, params, older, results) in TABLE {
        let Some(export) = module.get_export(name) else { continue };
        let ExternType::Func(form) = export else {
            return Err(format!("its export `{name}` is no function"));
        };
        if !is_of(&form, *params, *results) && !is_of(&form, *older, *results) {
            return Err(format!(
                "its function `{name}` must have {params} parameters of type i32 and {results} results"
            ));
        }
    }
    Ok(())
}

fn is_of(form: &FuncType, params: usize, results: usize) -> bool {
    let all = form.params().chain(form.results()).all(|of| matches!(of, ValType::I32));
    all && form.params().len() == params && form.results().len() == results
}

/// Those of an instance, each with the number of its parameters.
#[derive(Debug)]
pub(crate) struct GuestHooks(Vec<Option<(Func, usize)>>);

impl GuestHooks {
    pub(crate) fn of(instance: &Instance, store: &mut Store<HostState>) -> Self {
        let of = |(name, ..): &(&str, usize, usize, usize)| {
            let func = instance.get_func(&mut *store, name)?;
            let params = func.ty(&*store).params().len();
            Some((func, params))
        };
        Self(TABLE.iter().map(of).collect())
    }

    /// Those of an instance that cannot begin.
    pub(crate) const fn none() -> Self {
        Self(Vec::new())
    }

    /// A function, the number of its parameters, and that of its results.
    pub(crate) fn get(&self, hook: GuestHook) -> Option<(Func, usize, usize)> {
        let (func, params) = (*self.0.get(hook as usize)?)?;
        Some((func, params, TABLE[hook as usize].3))
    }

    pub(crate) fn has(&self, hook: GuestHook) -> bool {
        self.get(hook).is_some()
    }
}
