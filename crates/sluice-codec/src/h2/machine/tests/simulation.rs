//! Two machines over a network that cuts and delays, and users that read, write, reset and stall in any order.
//!
//! Keeps: users run only when they are woken, and bytes are taken from a machine only when it says that it has some, as
//! the driver does; so a wake-up that is missing is a deadlock. Nothing deadlocks, every stream ends once on both sides,
//! and when all have ended nothing is held and no byte of a window is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use super::*;

/// What a user of a stream still does.
struct User {
    woken: Arc<Woken>,
    phase: UserPhase,
    /// Bytes of the body to send, and whether there are trailers.
    left: usize,
    trailers: bool,
    /// Whether it does not read for now.
    stalls: bool,
    /// Whether it gives up the next time it runs.
    gives_up: bool,
    /// The bytes of the body that it received.
    received: usize,
    priority: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UserPhase {
    /// A client, before its stream is open.
    Opening,
    /// A client, before the response; a server, before it has sent a head.
    Head(usize),
    Body(usize),
    Over,
}

#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl User {
    fn new(random: &mut fastrand::Rng, bodies: &[usize], phase: UserPhase) -> Self {
        Self {
            woken: Arc::new(Woken(true.into())),
            phase,
            left: *random.choice(bodies).unwrap(),
            trailers: random.u8(..3) == 0,
            stalls: random.u8(..4) == 0,
            gives_up: false,
            received: 0,
            priority: *random.choice(&[None, None, Some("u=1"), Some("u=5, i")]).unwrap(),
        }
    }

    fn is_woken(&self) -> bool {
        self.woken.0.load(Ordering::Relaxed)
    }

    /// Runs until it has to wait.
    fn run(&mut self, machine: &mut H2Machine, random: &mut fastrand::Rng) {
        self.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(self.woken.clone());
        let cx = Context::from_waker(&waker);
        let key = match self.phase {
            UserPhase::Opening => match self.open(machine, &cx) {
                Some(key) => key,
                None => return,
            },
            UserPhase::Head(key) | UserPhase::Body(key) => key,
            UserPhase::Over => return,
        };
        let is_over = std::mem::take(&mut self.gives_up)
            || self.exchange(machine, key, &cx, random)
            || machine.poll_gone(key, &cx).is_ready();
        if is_over {
            machine.release(key);
            self.phase = UserPhase::Over;
        }
    }

    fn open(&mut self, machine: &mut H2Machine, cx: &Context<'_>) -> Option<usize> {
        let mut head = request("/");
        if let Some(priority) = self.priority {
            head.append(b"priority", priority.as_bytes());
        }
        match machine.poll_open(&head, cx) {
            Poll::Ready(Ok(())) => {
                let key = machine.open(&head, false).unwrap();
                self.phase = UserPhase::Head(key);
                Some(key)
            }
            Poll::Ready(Err(_)) => {
                self.phase = UserPhase::Over;
                None
            }
            Poll::Pending => None,
        }
    }

    /// Sends and receives; returns whether both are over.
    fn exchange(
        &mut self,
        machine: &mut H2Machine,
        key: usize,
        cx: &Context<'_>,
        random: &mut fastrand::Rng,
    ) -> bool {
        if machine.role == Role::Server && self.phase == UserPhase::Head(key) {
            let _ = machine.send_head(key, &response(), false);
            self.phase = UserPhase::Body(key);
        }
        let is_received = self.receive(machine, key, cx);
        let is_sent = self.send(machine, key, cx, random);
        is_sent && is_received
    }

    fn send(
        &mut self,
        machine: &mut H2Machine,
        key: usize,
        cx: &Context<'_>,
        random: &mut fastrand::Rng,
    ) -> bool {
        loop {
            match machine.poll_flushed(key, cx) {
                Poll::Pending => return false,
                Poll::Ready(Err(_)) => return true,
                Poll::Ready(Ok(())) if machine.is_sent(key) => return true,
                Poll::Ready(Ok(())) => {}
            }
            let sent = if self.left > 0 {
                let piece = self.left.min(1 + random.usize(..70_000));
                self.left -= piece;
                machine.send_data(key, data(piece), self.left == 0 && !self.trailers)
            } else {
                let mut trailers = Head::default();
                trailers.append(b"x-trailer", b"yes");
                machine.send_end(key, self.trailers.then_some(&trailers))
            };
            if sent.is_err() {
                return true;
            }
        }
    }

    fn receive(&mut self, machine: &mut H2Machine, key: usize, cx: &Context<'_>) -> bool {
        if self.phase == UserPhase::Head(key) {
            match machine.poll_recv_head(key, cx, &mut Head::default()) {
                Poll::Pending => return false,
                Poll::Ready(Err(_)) => return true,
                Poll::Ready(Ok(())) => self.phase = UserPhase::Body(key),
            }
        }
        while !self.stalls {
            match machine.poll_recv(key, cx) {
                Poll::Pending => return false,
                Poll::Ready(Err(_)) => return true,
                Poll::Ready(Ok(Frame::Data { body, last })) => {
                    self.received += body.len();
                    if last {
                        return true;
                    }
                }
                Poll::Ready(Ok(_)) => return true,
            }
        }
        false
    }
}

struct Side {
    machine: H2Machine,
    users: Vec<User>,
    /// Bytes on their way to this side.
    inbox: Vec<u8>,
    ended: usize,
}

impl Side {
    fn new(role: Role, random: &mut fastrand::Rng, windows: &[u32]) -> Self {
        let options = H2Options {
            streams_max: 1 + random.u32(..8),
            stream_window: *random.choice(windows).unwrap(),
            connection_window: 65_535 + random.u32(..100_000),
            ..H2Options::default()
        };
        let machine = H2Machine::new(role, &options, supply(), NOW);
        Self { machine, users: Vec::new(), inbox: Vec::new(), ended: 0 }
    }

    /// Runs a user that was woken; returns whether there is one.
    fn run_user(&mut self, random: &mut fastrand::Rng) -> bool {
        let woken: Vec<usize> =
            (0..self.users.len()).filter(|at| self.users[*at].is_woken()).collect();
        let Some(at) = random.choice(woken) else { return false };
        self.users[at].run(&mut self.machine, random);
        if self.users[at].phase == UserPhase::Over {
            self.users.swap_remove(at);
            self.ended += 1;
        }
        true
    }

    /// Lets a user that does not read read again; returns whether there is one.
    fn unstall(&mut self, random: &mut fastrand::Rng) -> bool {
        let stalled: Vec<usize> =
            (0..self.users.len()).filter(|at| self.users[*at].stalls).collect();
        let Some(at) = random.choice(stalled) else { return false };
        self.users[at].stalls = false;
        self.users[at].woken.0.store(true, Ordering::Relaxed);
        true
    }

    /// Something that happens to a user from outside.
    fn disturb(&mut self, random: &mut fastrand::Rng) {
        if let Some(user) = random.choice(&mut self.users) {
            match random.u8(..4) {
                0 => user.gives_up = true,
                1 => user.stalls = true,
                // A wake-up without a reason.
                _ => {}
            }
            user.woken.0.store(true, Ordering::Relaxed);
        }
    }

    /// Takes bytes that are to be sent, some of them from where they are.
    fn output(&mut self, random: &mut fastrand::Rng) -> Vec<u8> {
        let direct_min = *random.choice(&[1, 8 << 10, usize::MAX]).unwrap();
        let pieces = self.machine.fill(1 + random.usize(..70_000), direct_min);
        let bytes = self.machine.parts(&pieces).flatten().copied().collect();
        self.machine.sent(&pieces);
        bytes
    }

    /// Receives some of what is on its way.
    fn input(&mut self, random: &mut fastrand::Rng, now: Moment) {
        let count = 1 + random.usize(..self.inbox.len());
        let bytes: Vec<u8> = self.inbox.drain(..count).collect();
        self.machine.feed(&bytes, now);
    }

    fn accept(&mut self, random: &mut fastrand::Rng, bodies: &[usize]) -> usize {
        let mut accepted = 0;
        while let Some(event) = self.machine.poll_event() {
            if let MachineEvent::Request(key, _) = event {
                accepted += 1;
                self.users.push(User::new(random, bodies, UserPhase::Head(key)));
            }
        }
        accepted
    }
}

/// How a run may be disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// Every exchange is completed.
    Calm,
    /// Users give up and stall.
    Resets,
    /// The server is drained in the middle.
    Drain,
}

fn run(seed: u64) {
    let random = &mut fastrand::Rng::with_seed(seed);
    let weather = *random.choice(&[Weather::Calm, Weather::Resets, Weather::Drain]).unwrap();
    // Bodies that need not go through a window byte by byte forever.
    let (windows, bodies) = match random.u8(..4) {
        0 => (&[1, 7, 5_000][..], &[0, 1, 100, 300][..]),
        _ => (&[5_000, 60_000, 100_000][..], &[0, 1, 100, 20_000, 150_000][..]),
    };
    let mut sides = [Role::Client, Role::Server].map(|role| Side::new(role, random, windows));
    let opened = 1 + random.usize(..30);
    let new = |_| User::new(random, bodies, UserPhase::Opening);
    sides[0].users.extend((0..opened).map(new));
    let (mut accepted, mut steps) = (0, 0_u64);
    let drain_at = random.u64(..2_000);
    loop {
        steps += 1;
        assert!(steps < 3_000_000, "seed {seed}: it goes on forever");
        if weather == Weather::Drain && steps == drain_at {
            sides[1].machine.drain();
        }
        let at = random.usize(..2);
        if weather == Weather::Resets && random.u8(..60) == 0 {
            sides[at].disturb(random);
        }
        if random.u8(..100) == 0 {
            sides[at].machine.check();
        }
        let now = Moment::from_micros(steps * 5_000);
        let due = sides[1].machine.expire_lingering(now);
        // One thing of those that can happen; the other side's if there is none here, and the last resort at last.
        let acted = [at, 1 - at].into_iter().any(|at| {
            let first = random.u8(..3);
            (0..3).any(|turn| match (first + turn) % 3 {
                0 if sides[at].machine.has_output() => {
                    let bytes = sides[at].output(random);
                    sides[1 - at].inbox.extend(bytes);
                    true
                }
                1 if !sides[at].inbox.is_empty() && sides[at].machine.may_read() => {
                    // Slowly, because windows of a few bytes are a flood if they are granted fast.
                    sides[at].input(random, now);
                    accepted += sides[at].accept(random, bodies);
                    true
                }
                2 => sides[at].run_user(random),
                _ => false,
            })
        });
        if !acted && !sides[at].unstall(random) && !sides[1 - at].unstall(random) && due.is_none() {
            break;
        }
        for side in &sides {
            assert_eq!(side.machine.end(), None, "seed {seed}: both are honest");
        }
    }
    let waiting: Vec<UserPhase> =
        sides.iter().flat_map(|side| side.users.iter().map(|user| user.phase)).collect();
    assert_eq!(waiting, [], "seed {seed}, {weather:?}: a deadlock");
    assert_eq!((sides[0].ended, sides[1].ended), (opened, accepted), "seed {seed}");
    for at in [0, 1] {
        assert_nothing_is_left(&sides[at].machine, &sides[1 - at].machine, seed);
    }
    if weather == Weather::Drain && drain_at < steps {
        assert!(sides.iter().all(|side| side.machine.is_winding_down()), "seed {seed}");
    }
}

fn assert_nothing_is_left(machine: &H2Machine, peer: &H2Machine, seed: u64) {
    assert_eq!((machine.open_streams(), machine.bytes_waiting()), (0, 0), "seed {seed}");
    assert!(machine.streams.is_empty() && machine.ready.is_empty(), "seed {seed}");
    assert_eq!(machine.supply.buffers.bytes_out(), 0, "seed {seed}");
    // Every byte of the connection's window was given back, and both sides count alike.
    assert!(machine.recv.is_whole() && machine.withheld == 0, "seed {seed}: {:?}", machine.recv);
    assert_eq!(machine.recv.left(), peer.send.room(), "seed {seed}");
}

#[test]
fn honest_machines_never_deadlock() {
    let seed = std::env::var("SLUICE_SEED").ok().and_then(|seed| seed.parse().ok());
    match seed {
        Some(seed) => run(seed),
        None => (0..300).for_each(run),
    }
}
