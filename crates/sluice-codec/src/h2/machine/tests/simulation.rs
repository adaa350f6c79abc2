//! Two machines over a network that cuts and delays, and users that read, write, reset and stall in any order.
//!
//! Keeps: nothing deadlocks, every stream ends once on both sides, and nothing is held when all have ended.

use super::*;

/// What a user of a stream still does.
struct User {
    key: usize,
    /// Bytes of the body to send, and whether there are trailers.
    left: usize,
    trailers: bool,
    head_due: bool,
    reset: bool,
}

struct Side {
    machine: H2Machine,
    users: Vec<User>,
    /// Bytes on their way to this side.
    inbox: Vec<u8>,
    ended: usize,
}

impl Side {
    fn new(role: Role, random: &mut fastrand::Rng) -> Self {
        let options = H2Options {
            streams_max: 1 + random.u32(..8),
            stream_window: 1 + random.u32(..60_000),
            connection_window: 65_535 + random.u32(..100_000),
            ..H2Options::default()
        };
        let machine = H2Machine::new(role, &options, supply(), NOW);
        Self { machine, users: Vec::new(), inbox: Vec::new(), ended: 0 }
    }

    /// Lets one user do one thing; returns whether it did.
    fn act(&mut self, random: &mut fastrand::Rng) -> bool {
        if self.users.is_empty() {
            return false;
        }
        let at = random.usize(..self.users.len());
        let user = &mut self.users[at];
        let key = user.key;
        if user.reset && random.u8(..20) == 0 {
            self.machine.release(key);
            self.users.swap_remove(at);
            self.ended += 1;
            return true;
        }
        let mut acted = false;
        if user.head_due {
            user.head_due = false;
            acted = true;
            let _ = self.machine.send_head(key, &response(), false);
        }
        let flushed = self.machine.poll_flushed(key, &cx());
        let gone = self.machine.poll_gone(key, &cx()).is_ready();
        if let (Poll::Ready(Ok(())), false) = (flushed, self.machine.is_sent(key)) {
            acted = true;
            if user.left > 0 {
                let piece = user.left.min(1 + random.usize(..70_000));
                user.left -= piece;
                let last = user.left == 0 && !user.trailers;
                let _ = self.machine.send_data(key, data(piece), last);
            } else {
                let mut trailers = Head::default();
                trailers.append(b"x-trailer", b"yes");
                let _ = self.machine.send_end(key, user.trailers.then_some(&trailers));
            }
        }
        let mut over = false;
        if random.u8(..3) > 0 {
            let mut head = Head::default();
            acted |= self.machine.poll_recv_head(key, &cx(), &mut head).is_ready();
            match self.machine.poll_recv(key, &cx()) {
                Poll::Ready(Ok(Frame::Data { last: false, .. })) => acted = true,
                Poll::Ready(Ok(_)) => over = self.machine.is_sent(key),
                Poll::Ready(Err(_)) => over = true,
                Poll::Pending => {}
            }
        }
        if over || gone {
            self.machine.release(key);
            self.users.swap_remove(at);
            self.ended += 1;
            acted = true;
        }
        acted
    }
}

fn run(seed: u64) {
    let random = &mut fastrand::Rng::with_seed(seed);
    let mut sides = [Side::new(Role::Client, random), Side::new(Role::Server, random)];
    let mut to_open = 1 + random.usize(..30);
    let opened = to_open;
    let (mut accepted, mut idle) = (0, 0);
    while idle < 500 {
        let mut acted = false;
        let from = random.usize(..2);
        // Bytes leave, and arrive in pieces.
        if random.bool() {
            let machine = &mut sides[from].machine;
            machine.fill(1 + random.usize(..70_000), usize::MAX);
            let bytes = machine.waiting().to_vec();
            machine.sent(None);
            acted |= !bytes.is_empty();
            sides[1 - from].inbox.extend(bytes);
        }
        let len = sides[from].inbox.len();
        if len > 0 {
            let bytes: Vec<u8> = sides[from].inbox.drain(..1 + random.usize(..len)).collect();
            sides[from].machine.feed(&bytes, NOW);
            acted = true;
        }
        while let Some(event) = sides[1].machine.poll_event() {
            if let MachineEvent::Request(key, _) = event {
                accepted += 1;
                sides[1].users.push(User {
                    key,
                    left: random.usize(..200_000),
                    trailers: random.bool(),
                    head_due: true,
                    reset: random.u8(..6) == 0,
                });
            }
        }
        let head = request("/");
        let may_open = to_open > 0 && sides[0].machine.poll_open(&head, &cx()).is_ready();
        if may_open && random.u8(..4) == 0 {
            to_open -= 1;
            acted = true;
            let key = sides[0].machine.open(&head, false).unwrap();
            sides[0].users.push(User {
                key,
                left: random.usize(..200_000),
                trailers: random.bool(),
                head_due: false,
                reset: random.u8(..6) == 0,
            });
        }
        acted |= sides[random.usize(..2)].act(random);
        for side in &sides {
            assert_eq!(side.machine.end(), None, "seed {seed}: both are honest");
        }
        idle = if acted { 0 } else { idle + 1 };
    }
    let shown = || sides.iter().map(|side| side.users.len()).collect::<Vec<_>>();
    assert_eq!((shown(), to_open), (vec![0, 0], 0), "seed {seed}: a deadlock");
    assert_eq!((sides[0].ended, sides[1].ended), (opened, accepted), "seed {seed}");
    for side in &sides {
        assert_eq!(side.machine.open_streams(), 0, "seed {seed}");
        assert!(side.machine.streams.is_empty() && side.machine.pieces.held() == 0);
        assert_eq!(side.machine.supply.buffers.bytes_out(), 0, "seed {seed}");
    }
}

#[test]
fn honest_machines_never_deadlock() {
    let seed = std::env::var("SLUICE_SEED").ok().and_then(|seed| seed.parse().ok());
    match seed {
        Some(seed) => run(seed),
        None => (0..60).for_each(run),
    }
}
