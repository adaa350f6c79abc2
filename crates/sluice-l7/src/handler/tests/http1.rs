//! HTTP/1: from request to request, and how a connection ends.

use sluice_codec::Head;
use sluice_codec::scripted::PeerEvent;

use super::*;
use crate::pools::scripted::ScriptedConnect;

/// A chain that serves HTTP/1 only, with at most this many requests on a connection.
fn on_http1(requests_max: Option<u64>, test: impl AsyncFnOnce(Bench)) {
    let change = |plan: &mut HttpPlan| {
        plan.options.versions = Versions::Http1;
        plan.options.requests_max = requests_max;
    };
    on_bench(change, test);
}

/// The statuses of the responses, and whether the last one announces the end of the connection.
fn responses(received: &[u8]) -> (Vec<u16>, bool) {
    let text = str::from_utf8(received).unwrap();
    let statuses = text.split("HTTP/1.1 ").skip(1).map(|text| text[..3].parse().unwrap());
    let last = text.rsplit("HTTP/1.1 ").next().unwrap_or_default();
    (statuses.collect(), last.to_ascii_lowercase().contains("connection: close"))
}

impl Client {
    /// The statuses of the responses since the last time, and whether the connection has been closed behind them.
    fn statuses(&mut self) -> (Vec<u16>, bool) {
        let (received, closed) = self.receive();
        (responses(&received).0, closed)
    }
}

/// Checks what the client has received since the last time: these responses; `close` if the last one announces the end
/// of the connection, and it is closed.
#[track_caller]
fn check(client: &mut Client, statuses: &[u16], close: bool) {
    let (received, closed) = client.receive();
    assert_eq!((responses(&received), closed), ((statuses.to_vec(), close), close));
}

#[test]
fn a_connection_serves_one_request_after_another() {
    on_http1(None, async |bench| {
        let mut client = bench.connect().await;
        for status in [200, 204, 503] {
            bench.responds(status);
            client.send(REQUEST).await;
            check(&mut client, &[status], false);
        }
        let (received, sent) = (client.conn.info.received.get(), client.conn.info.sent.get());
        assert_eq!(received, 3 * REQUEST.len() as u64);
        assert!(sent > 0);
        client.ends().await;
        client.check_end(Some(end::DONE));
        assert_eq!(client.receive(), (Vec::new(), true));
    });
}

#[test]
fn requests_that_arrive_together_are_served_in_order() {
    // More than one turn takes, and more than one read.
    let count = 100;
    on_http1(None, async |bench| {
        let statuses: Vec<u16> = (0..count).map(|n| 400 + n).collect();
        statuses.iter().for_each(|status| bench.responds(*status));
        let mut client = bench.connect().await;
        client.send(&REQUEST.repeat(count.into())).await;
        check(&mut client, &statuses, false);
        client.check_end(None);
    });
}

#[test]
fn a_long_pipeline_leaves_others_their_turn() {
    on_http1(None, async |bench| {
        let mut client = bench.connect().await;
        // The first read takes it whole.
        let count = 64;
        (0..count).for_each(|_| bench.responds(200));
        let most = bench.most_in_a_row(&mut client, &REQUEST.repeat(count), 64).await;
        assert!(most <= 32, "{most} requests");
    });
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    on_http1(None, async |bench| {
        bench.responds(200);
        let mut client = bench.connect().await;
        for byte in REQUEST {
            assert_eq!(client.receive(), (Vec::new(), false));
            client.send(&[*byte]).await;
        }
        check(&mut client, &[200], false);
    });
}

#[test]
fn the_last_request_of_a_connection_says_so() {
    on_http1(Some(2), async |bench| {
        (0..2).for_each(|_| bench.responds(200));
        let mut client = bench.connect().await;
        client.send(REQUEST).await;
        check(&mut client, &[200], false);
        client.send(&REQUEST.repeat(2)).await;
        check(&mut client, &[200], true);
        drop(client.socket.shutdown(std::net::Shutdown::Write));
        turns().await;
        client.check_end(Some(end::DONE));
    });
}

#[test]
fn a_client_that_asks_for_the_end_gets_it() {
    on_http1(None, async |bench| {
        for request in [
            "GET / HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\n\r\n",
            "GET / HTTP/1.0\r\nhost: app.test\r\n\r\n",
        ] {
            bench.responds(200);
            let mut client = bench.connect().await;
            client.send(request.as_bytes()).await;
            assert_eq!(client.statuses(), (vec![200], true));
            client.check_end(None);
            drop(client.socket.shutdown(std::net::Shutdown::Write));
            turns().await;
            client.check_end(Some(end::DONE));
        }
    });
}

// --- time ---

#[test]
fn the_first_request_is_due_at_once() {
    on_http1(None, async |bench| {
        let mut silent = bench.connect().await;
        bench.pass(HEAD_TIMEOUT - SECOND).await;
        silent.check_end(None);
        bench.pass(SECOND * 2).await;
        silent.check_end(Some(reasons::HEAD_TIMEOUT));
        assert_eq!(silent.receive(), (Vec::new(), true), "it asked nothing");
    });
}

#[test]
fn a_request_that_is_not_complete_in_time_gets_a_408() {
    on_http1(None, async |bench| {
        let mut client = bench.connect().await;
        client.send(b"GET / HTTP/1.1\r\n").await;
        bench.pass(HEAD_TIMEOUT - SECOND).await;
        // Another line gives it no more time.
        client.send(b"host: app.test\r\n").await;
        bench.pass(SECOND * 2).await;
        check(&mut client, &[408], true);
        client.ends().await;
        client.check_end(Some(reasons::HEAD_TIMEOUT));
        assert_eq!(bench.faults("http1.head_timeout"), 1);
    });
}

#[test]
fn between_requests_a_client_may_be_idle_for_longer() {
    on_http1(None, async |bench| {
        let mut client = bench.connect().await;
        for _ in 0..2 {
            bench.responds(200);
            client.send(REQUEST).await;
            check(&mut client, &[200], false);
            bench.pass(IDLE_TIMEOUT - SECOND).await;
            client.check_end(None);
        }
        // The first byte of the next request ends the idle time; then the request is due.
        client.send(b"G").await;
        bench.pass(HEAD_TIMEOUT - SECOND).await;
        client.check_end(None);
        bench.responds(200);
        client.send(&REQUEST[1..]).await;
        check(&mut client, &[200], false);
        client.send(b"G").await;
        bench.pass(HEAD_TIMEOUT + SECOND).await;
        check(&mut client, &[408], true);

        let mut client = bench.connect().await;
        bench.responds(200);
        client.send(REQUEST).await;
        check(&mut client, &[200], false);
        bench.pass(IDLE_TIMEOUT + SECOND).await;
        client.check_end(Some(reasons::KEEPALIVE_IDLE));
        assert_eq!(client.receive(), (Vec::new(), true));
    });
}

#[test]
fn a_request_in_flight_has_deadlines_of_its_own() {
    on_http1(None, async |bench| {
        let endpoint = bench.endpoint();
        let mut client = bench.connect().await;
        client.send(REQUEST).await;
        bench.pass(IDLE_TIMEOUT * 2).await;
        client.check_end(None);
        endpoint.does(kit::response(200, true));
        turns().await;
        check(&mut client, &[200], false);
    });
}

// --- what is not a request ---

/// Checks the status for a client that sends this first, and the reason.
fn check_refused(sent: &[u8], status: u16, reason: Reason, code: &str) {
    on_http1(None, async |bench| {
        let mut client = bench.connect().await;
        client.send(sent).await;
        check(&mut client, &[status], true);
        assert_eq!(bench.faults(code), 1, "{code}");
        client.ends().await;
        client.check_end(Some(reason));
        assert!(client.conn.info.sent.get() > 0, "the response is counted");
        // What comes behind it is discarded.
        let received = client.conn.info.received.get();
        assert!(received > 0 && received <= sent.len() as u64);
    });
}

#[test]
fn what_is_not_a_request_is_refused_with_a_response() {
    check_refused(b"hello\r\n\r\n", 400, reasons::MALFORMED, "http1.method_malformed");
    let large = [&REQUEST[..REQUEST.len() - 2], &[b'x'; 100_000]].concat();
    check_refused(&large, 431, reasons::HEAD_TOO_LARGE, "http1.head_too_large");
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_request_gets_no_response() {
    on_http1(None, async |bench| {
        let mut client = bench.connect().await;
        client.send(b"GET / HT").await;
        client.ends().await;
        client.check_end(Some(end::DOWNSTREAM_CLOSED));
        assert_eq!(client.receive(), (Vec::new(), true));
    });
}

// --- closing ---

#[test]
fn a_client_can_read_an_early_response_while_it_still_sends() {
    on_http1(None, async |bench| {
        bench.responds(413);
        let mut client = bench.connect().await;
        client.send(b"POST / HTTP/1.1\r\nhost: app.test\r\ncontent-length: 1000000\r\n\r\n").await;
        for _ in 0..10 {
            client.send(&[b'x'; 10_000]).await;
            client.check_end(None);
        }
        assert_eq!(client.statuses(), ([413].to_vec(), true));
        client.ends().await;
        client.check_end(Some(end::DONE));
    });
}

#[test]
fn a_client_that_does_not_close_is_not_waited_for_long() {
    on_http1(None, async |bench| {
        bench.responds(413);
        let mut client = bench.connect().await;
        client.send(b"POST / HTTP/1.1\r\nhost: app.test\r\ncontent-length: 1000000\r\n\r\n").await;
        assert_eq!(client.statuses(), ([413].to_vec(), true));
        bench.pass(SECOND / 2).await;
        client.check_end(None);
        bench.pass(SECOND).await;
        client.check_end(Some(end::DONE));
    });
}

#[test]
fn a_client_that_sends_without_end_is_not_read_for_long() {
    on_http1(None, async |bench| {
        bench.responds(413);
        let mut client = bench.connect().await;
        client.send(b"POST / HTTP/1.1\r\nhost: app.test\r\ncontent-length: 9999999\r\n\r\n").await;
        let mut sent = 0;
        while client.ended.get().is_none() {
            client.send(&[b'x'; 10_000]).await;
            sent += 10_000;
            assert!(sent < 2_000_000, "no time passes");
        }
        assert!(sent > 1_000_000, "only {sent} bytes were read");
        client.check_end(Some(end::DONE));
    });
}

#[test]
fn a_response_of_sluice_ends_the_connection_only_if_it_must() {
    let fails = |bench: &Bench| {
        let refused = || ScriptedConnect::Fails(sluice_upstream::reasons::REFUSED);
        (0..3).for_each(|_| bench.pool.scripted.borrow_mut().push_back(refused()));
    };
    on_http1(None, async |bench| {
        let mut client = bench.connect().await;
        fails(&bench);
        client.send(REQUEST).await;
        check(&mut client, &[503], false);
        // The rest of the request would be taken for another one.
        fails(&bench);
        client.send(b"POST / HTTP/1.1\r\nhost: app.test\r\ncontent-length: 5\r\n\r\n").await;
        check(&mut client, &[503], true);
        let mut client = bench.connect().await;
        client.conn.finish();
        fails(&bench);
        client.send(REQUEST).await;
        check(&mut client, &[503], true);
    });
}

// --- draining ---

#[test]
fn an_idle_connection_drains_at_once() {
    on_http1(None, async |bench| {
        bench.responds(200);
        let mut client = bench.connect().await;
        client.send(REQUEST).await;
        check(&mut client, &[200], false);
        client.conn.finish();
        turns().await;
        client.check_end(Some(end::DRAIN));
        assert_eq!(client.receive(), (Vec::new(), true));
    });
}

#[test]
fn a_new_connection_that_drains_still_gets_its_first_response() {
    on_http1(None, async |bench| {
        let mut client = bench.connect().await;
        client.conn.finish();
        turns().await;
        client.check_end(None);
        bench.responds(200);
        client.send(REQUEST).await;
        check(&mut client, &[200], true);
    });
}

#[test]
fn a_request_in_flight_is_the_last_of_a_connection_that_drains() {
    on_http1(None, async |bench| {
        let endpoint = bench.endpoint();
        let mut client = bench.connect().await;
        client.send(REQUEST).await;
        client.conn.finish();
        turns().await;
        client.check_end(None);
        endpoint.does(kit::response(200, true));
        turns().await;
        check(&mut client, &[200], true);
        client.ends().await;
        client.check_end(Some(end::DONE));
    });
}

#[test]
fn a_slow_client_is_waited_for_before_its_next_request_is_read() {
    on_http1(None, async |bench| {
        let endpoint = bench.endpoint();
        let mut client = bench.connect().await;
        client.send(REQUEST).await;
        endpoint.does(kit::response(200, false));
        (0..64).for_each(|_| endpoint.does(kit::data(LARGE, false)));
        endpoint.does(kit::data("", true));
        turns().await;
        bench.responds(204);
        client.send(REQUEST).await;
        // What it does not take is not lost.
        let mut all = Vec::new();
        while !all.ends_with(b"\r\n\r\n") || !all.windows(3).any(|three| three == b"204") {
            let (received, closed) = client.receive();
            assert!(!closed);
            all.extend(received);
            turns().await;
        }
        assert!(all.len() > 64 * LARGE.len());
    });
}

/// A piece of a body; some of them are more than a socket holds.
const LARGE: &str = {
    static BYTES: [u8; 1 << 15] = [b'x'; 1 << 15];
    match str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => unreachable!(),
    }
};

#[test]
fn a_request_without_memory_gets_503_and_the_connection_stays() {
    on_http1(None, async |bench| {
        let buffers = &bench.worker.buffers;
        let mut client = bench.connect().await;
        let held = bench.fill_memory(0);
        client.send(REQUEST).await;
        check(&mut client, &[503], false);
        assert_eq!(bench.ended_for_memory(), 1);
        drop(held);
        let endpoint = bench.endpoint();
        client.send(REQUEST).await;
        assert_eq!(buffers.bytes_out(), REQUEST_BYTES);
        // Large headers of a response take more.
        let mut response = Head::response(200);
        response.append(b"x-large", &[b'x'; 100_000]);
        let held = bench.fill_memory(0);
        endpoint.does(PeerEvent::Head(response, true));
        turns().await;
        check(&mut client, &[502], false);
        drop(held);
        bench.responds(200);
        client.send(REQUEST).await;
        check(&mut client, &[200], false);
        assert_eq!(buffers.bytes_out(), 0);
    });
}
