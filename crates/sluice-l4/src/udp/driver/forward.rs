//! The datagrams of flows, on their way to the endpoint and back.
//!
//! Owns: what filters make of datagrams, sending them, and what is counted and learnt of them. Refuses to know: which flow a datagram
//! belongs to. Keeps: a run of datagrams takes one call of the system where no filter sees them; what filters saw of a flow that they
//! end is not sent.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::task::{Poll, ready};

use sluice_core::{Reason, TransportKind};
use sluice_io::{DATAGRAM_MAX, DatagramFilter, DatagramStep, Interest};
use sluice_sys::datagram::{BATCH, Datagram, Outgoing, send};
use smallvec::SmallVec;

use super::UdpSlot;
use crate::quic::ids;
use crate::reasons;
use crate::udp::batch::{More, count_of, is_of_icmp, receive, turn_over};
use crate::udp::flow::Flow;
use crate::udp::flow_table::FlowId;

/// Datagrams of one flow, in order.
pub(super) type DatagramRun<'a> = SmallVec<[Outgoing<'a>; BATCH]>;

impl UdpSlot {
    /// Forwards datagrams of a client.
    pub(super) fn flush(&self, of: Option<(FlowId, Rc<Flow>)>, run: &mut DatagramRun<'_>) {
        let Some((id, flow)) = of else { return };
        let counters = &flow.listener.counters;
        let bytes: usize = run.iter().map(|datagram| datagram.data.len()).sum();
        let count = count_of(run);
        counters.received.add(count);
        flow.info.add_received(bytes);
        flow.state.note_received(count);
        // The server issues other IDs under encryption; a client that starts to use one reveals it.
        let shown = flow.state.shown_id(run.iter().rev().map(|datagram| datagram.data));
        shown.into_iter().for_each(|id| self.learn(&flow, id));
        if flow.filters.borrow().is_empty() {
            self.send_on(id, &flow, run);
        } else {
            let filtered = filtered(&flow, run, FilterSide::Received);
            let outgoing = |data| Outgoing { data, to: None, from: None, segment: None };
            let passed: DatagramRun<'_> =
                filtered.datagrams.iter().map(|data| outgoing(&**data)).collect();
            self.send_on(id, &flow, &passed);
            if let Some(why) = filtered.end {
                self.end(id, why);
            }
        }
        run.clear();
    }

    /// Sends datagrams to the endpoint.
    fn send_on(&self, id: FlowId, flow: &Flow, run: &[Outgoing<'_>]) {
        let counters = &flow.listener.counters;
        let count = count_of(run);
        flow.state.note_forwarded(count, flow.plan().responses);
        flow.claim.handle().note_datagrams(&self.worker, flow.claim.endpoint(), count);
        let mut rest = run;
        while !rest.is_empty() {
            match send(flow.upstream.socket.as_fd(), rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if is_of_icmp(&error) => {
                    // A reply to an earlier datagram; this one has not been sent.
                    counters.icmp.increment();
                    counters.dropped.add(count_of(rest));
                    self.end(id, reasons::FLOW_ICMP);
                    break;
                }
                Err(_) => {
                    counters.dropped.add(count_of(rest));
                    break;
                }
            }
        }
    }

    /// Forwards the datagrams that were held until their flow began.
    pub(super) fn flush_held(&self, of: (FlowId, Rc<Flow>), held: &[Box<[u8]>]) {
        if !held.is_empty() {
            let outgoing = |data| Outgoing { data, to: None, from: None, segment: None };
            self.flush(Some(of), &mut held.iter().map(|data| outgoing(&**data)).collect());
        }
    }

    /// Forwards the replies of a flow to its client, for as long as the flow lasts.
    pub(super) async fn answer(self: Rc<Self>, id: FlowId, flow: Rc<Flow>) {
        let why = poll_fn(|cx| {
            loop {
                // An ICMP error makes the socket readable: what is read is the error.
                ready!(flow.upstream.socket.poll_ready(cx, Interest::Read));
                let got = self.worker.with_datagrams(|batch| {
                    let more = receive(&flow.upstream.socket, batch)?;
                    let end = self.send_back(&flow, batch.iter());
                    Ok::<_, io::Error>((more, end))
                });
                match got {
                    Ok((_, Some(why))) => return Poll::Ready(why),
                    Ok((more, None)) => {
                        let mut table = self.table.borrow_mut();
                        if flow.state.note_answer() {
                            table.set_idle(id, flow.plan().idle_timeout);
                        }
                        flow.claim.endpoint().responded();
                        table.touch(id, self.worker.now());
                        drop(table);
                        if flow.plan().responses.is_some() && flow.state.is_answered_in_full() {
                            return Poll::Ready(reasons::FLOW_DONE);
                        }
                        if more == More::Perhaps {
                            return turn_over(cx);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        flow.listener.counters.icmp.increment();
                        flow.info.note(error);
                        return Poll::Ready(reasons::FLOW_ICMP);
                    }
                }
            }
        })
        .await;
        // Prevents the end from aborting this very task.
        flow.task.borrow_mut().take();
        self.end(id, why);
    }

    /// Sends replies to the client; returns why the flow ends with them, if it does.
    fn send_back<'a>(
        &self,
        flow: &Flow,
        datagrams: impl Iterator<Item = Datagram<'a>>,
    ) -> Option<Reason> {
        let to = Some(flow.key.client);
        let from = flow.key.local;
        let quic =
            flow.info.facts.get().is_some_and(|facts| facts.transport == TransportKind::Quic);
        let run: DatagramRun<'_> = datagrams
            .map(|Datagram { data, segment, .. }| Outgoing { data, to, from, segment })
            .collect();
        if quic {
            // A server chooses its first ID in the handshake; later packets have short headers.
            let first = run.iter().find_map(|datagram| ids::chosen(datagram.data));
            first.into_iter().for_each(|id| self.learn(flow, id));
        }
        flow.state.note_replies(count_of(&run));
        if flow.filters.borrow().is_empty() {
            self.send_to_client(flow, &run);
            return None;
        }
        let filtered = filtered(flow, &run, FilterSide::Sent);
        let outgoing = |data| Outgoing { data, to, from, segment: None };
        let passed: DatagramRun<'_> =
            filtered.datagrams.iter().map(|data| outgoing(&**data)).collect();
        self.send_to_client(flow, &passed);
        filtered.end
    }

    fn send_to_client(&self, flow: &Flow, run: &[Outgoing<'_>]) {
        let counters = &flow.listener.counters;
        let mut rest = run;
        while !rest.is_empty() {
            let Ok(count) = send(self.socket.as_fd(), rest) else {
                counters.dropped.add(count_of(rest));
                break;
            };
            let bytes: usize = rest[..count].iter().map(|datagram| datagram.data.len()).sum();
            flow.info.add_sent(bytes);
            let sent = count_of(&rest[..count]);
            flow.state.note_sent(sent);
            counters.sent.add(sent);
            rest = &rest[count..];
        }
    }
}

/// Which way datagrams pass filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FilterSide {
    /// From the client: the first filter is the first.
    Received,
    /// To the client: the last filter is the first.
    Sent,
}

/// What filters left of some datagrams.
#[derive(Debug, Default)]
struct FilteredRun {
    datagrams: Vec<Vec<u8>>,
    /// Why the flow ends behind them.
    end: Option<Reason>,
}

/// Shows datagrams to the filters of a flow, each by itself.
fn filtered(flow: &Flow, run: &[Outgoing<'_>], side: FilterSide) -> FilteredRun {
    let mut left = FilteredRun::default();
    let mut filters = flow.filters.borrow_mut();
    let counters = &flow.listener.counters;
    let mut received = run.iter().flat_map(each);
    while let Some(datagram) = received.next() {
        let mut datagram = datagram.to_vec();
        match pass(&mut filters, &mut datagram, side) {
            DatagramStep::Forward if datagram.len() <= DATAGRAM_MAX => {
                left.datagrams.push(datagram);
            }
            DatagramStep::Forward | DatagramStep::Drop => counters.filtered.increment(),
            DatagramStep::End(why) => {
                // What was received with it belongs to the flow as well.
                counters.filtered.add(1 + received.count() as u64);
                left.end = Some(why);
                break;
            }
        }
    }
    left
}

fn pass(
    filters: &mut [Box<dyn DatagramFilter>],
    datagram: &mut Vec<u8>,
    side: FilterSide,
) -> DatagramStep {
    for place in 0..filters.len() {
        let step = match side {
            FilterSide::Received => filters[place].received(datagram),
            FilterSide::Sent => filters[filters.len() - 1 - place].sent(datagram),
        };
        if step != DatagramStep::Forward {
            return step;
        }
    }
    DatagramStep::Forward
}

/// The datagrams that were received as one.
fn each<'a>(together: &Outgoing<'a>) -> impl Iterator<Item = &'a [u8]> {
    let segment = together.segment.map_or(usize::MAX, usize::from).max(1);
    let mut rest = Some(together.data);
    std::iter::from_fn(move || {
        let data = rest.take()?;
        let (first, behind) = data.split_at(segment.min(data.len()));
        rest = (!behind.is_empty()).then_some(behind);
        Some(first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_that_were_received_as_one_are_seen_one_by_one() {
        let check = |data: &[u8], segment, expected: &[&[u8]]| {
            let together = Outgoing { data, to: None, from: None, segment };
            assert_eq!(each(&together).collect::<Vec<_>>(), expected);
        };
        check(b"abcdefg", Some(3), &[b"abc", b"def", b"g"]);
        check(b"abcdef", Some(3), &[b"abc", b"def"]);
        check(b"abc", None, &[b"abc"]);
        // An empty datagram is one.
        check(b"", None, &[b""]);
    }

    /// Adds a letter, drops what begins with `d`, and ends with what begins with `e`.
    #[derive(Debug)]
    struct Letter(u8);

    impl DatagramFilter for Letter {
        fn received(&mut self, datagram: &mut Vec<u8>) -> DatagramStep {
            match datagram.first() {
                Some(b'd') => DatagramStep::Drop,
                Some(b'e') => DatagramStep::End(reasons::FLOW_DONE),
                _ => {
                    datagram.push(self.0);
                    DatagramStep::Forward
                }
            }
        }

        fn sent(&mut self, datagram: &mut Vec<u8>) -> DatagramStep {
            self.received(datagram)
        }
    }

    #[test]
    fn datagrams_pass_the_filters_in_order_and_replies_the_other_way() {
        let mut filters: Vec<Box<dyn DatagramFilter>> =
            vec![Box::new(Letter(b'1')), Box::new(Letter(b'2'))];
        for (data, side, step, left) in [
            ("x", FilterSide::Received, DatagramStep::Forward, "x12"),
            ("x", FilterSide::Sent, DatagramStep::Forward, "x21"),
            ("d", FilterSide::Received, DatagramStep::Drop, "d"),
            ("e", FilterSide::Sent, DatagramStep::End(reasons::FLOW_DONE), "e"),
        ] {
            let mut datagram = data.as_bytes().to_vec();
            assert_eq!(pass(&mut filters, &mut datagram, side), step, "{data}");
            assert_eq!(datagram, left.as_bytes());
        }
    }
}
