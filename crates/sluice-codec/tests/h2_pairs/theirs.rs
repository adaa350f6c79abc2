//! Their side: the crate `h2`.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::io::DuplexStream;

use crate::plan::{Abort, Exchange, Fields, Message, Plan, check_piece, piece};

fn to_map(fields: &Fields) -> HeaderMap {
    let name = |name: &String| HeaderName::from_bytes(name.as_bytes()).unwrap();
    let value = |value: &String| HeaderValue::from_str(value).unwrap();
    let mut map = HeaderMap::new();
    for (n, v) in fields {
        map.append(name(n), value(v));
    }
    map
}

#[track_caller]
fn check_fields(map: &HeaderMap, expected: &Fields) {
    let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
    let mut found: Fields = map.iter().map(|(n, v)| (n.to_string(), text(v))).collect();
    found.sort_by_key(|(name, _)| name.clone());
    let mut expected = expected.clone();
    expected.sort_by_key(|(name, _)| name.clone());
    assert_eq!(found, expected);
}

/// Sends all requests at once, and ends the connection when all have their responses.
pub(crate) async fn request_all(pipe: DuplexStream, plan: Rc<Plan>) {
    let mut random = fastrand::Rng::with_seed(plan.exchanges.len() as u64 ^ 0xabc);
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(random.u32(300..200_000))
        .initial_connection_window_size(random.u32(65_535..300_000))
        .max_frame_size(random.u32(16_384..100_000))
        .header_table_size(*random.choice(&[0, 100, 4096, 10_000]).unwrap())
        .max_concurrent_reset_streams(1000)
        .max_header_list_size(1 << 20)
        .enable_push(false);
    let (requests, connection) = builder.handshake::<_, Bytes>(pipe).await.unwrap();
    let driving = tokio::task::spawn_local(connection);
    let mut tasks = Vec::new();
    for number in 0..plan.exchanges.len() {
        let (requests, plan) = (requests.clone(), plan.clone());
        tasks.push(tokio::task::spawn_local(async move {
            request(requests, &plan.exchanges[number]).await;
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    drop(requests);
    driving.await.unwrap().unwrap();
}

async fn request(requests: h2::client::SendRequest<Bytes>, exchange: &Exchange) {
    let mut requests = requests.ready().await.unwrap();
    let mut request = Request::post(format!("http://a.test{}", exchange.path)).body(()).unwrap();
    *request.headers_mut() = to_map(&exchange.request.head_fields());
    let ends = exchange.request_ends();
    let (response, outgoing) = requests.send_request(request, ends).unwrap();
    let sending = async {
        if ends { Ok(()) } else { send_body(outgoing, exchange, &exchange.request).await }
    };
    let receiving = async {
        let response = response.await?;
        assert_eq!(response.status().as_u16(), exchange.status);
        check_fields(response.headers(), &exchange.response.head_fields());
        let limit = match exchange.abort {
            Some(Abort::Client(after)) => Some(after),
            _ => None,
        };
        recv_body(response.into_body(), exchange, &exchange.response, limit).await
    };
    let (sent, received) = tokio::join!(sending, receiving);
    if exchange.abort.is_none() {
        received.unwrap();
        sent.unwrap();
    }
}

/// Answers every request as planned, until the client has no more.
pub(crate) async fn serve(pipe: DuplexStream, plan: Rc<Plan>) {
    let mut random = fastrand::Rng::with_seed(plan.exchanges.len() as u64 ^ 0xdef);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(random.u32(300..200_000))
        .initial_connection_window_size(random.u32(65_535..300_000))
        .max_frame_size(random.u32(16_384..100_000))
        .max_concurrent_streams(random.u32(1..30))
        .max_concurrent_reset_streams(1000)
        .max_pending_accept_reset_streams(1000)
        .max_header_list_size(1 << 20);
    let mut connection = builder.handshake::<_, Bytes>(pipe).await.unwrap();
    let mut tasks = Vec::new();
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted.unwrap();
        let plan = plan.clone();
        tasks.push(tokio::task::spawn_local(async move {
            let exchange = plan.of_path(request.uri().path());
            check_fields(request.headers(), &exchange.request.head_fields());
            let _ = answer(request.into_body(), respond, exchange).await;
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

async fn answer(
    incoming: RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
    exchange: &Exchange,
) -> Result<(), h2::Error> {
    let responding = async {
        for _ in 0..exchange.informational {
            let early = Response::builder().status(103).header("link", "</x>").body(()).unwrap();
            respond.send_informational(early)?;
        }
        let mut response = Response::builder().status(exchange.status).body(()).unwrap();
        *response.headers_mut() = to_map(&exchange.response.head_fields());
        let outgoing = respond.send_response(response, false)?;
        send_body(outgoing, exchange, &exchange.response).await
    };
    let limit = match exchange.abort {
        Some(Abort::Server(after)) => Some(after),
        _ => None,
    };
    let receiving = recv_body(incoming, exchange, &exchange.request, limit);
    let (sent, received) = tokio::join!(responding, receiving);
    if limit.is_some() {
        respond.send_reset(Reason::CANCEL);
    }
    sent.and(received)
}

async fn send_body(
    mut outgoing: SendStream<Bytes>,
    exchange: &Exchange,
    message: &Message,
) -> Result<(), h2::Error> {
    let mut from = 0;
    while from < message.body {
        outgoing.reserve_capacity(message.body - from);
        let Some(room) = poll_fn(|cx| outgoing.poll_capacity(cx)).await else {
            return Err(Reason::CANCEL.into());
        };
        let len = room?.min(message.body - from);
        let last = from + len == message.body && message.trailers.is_none();
        outgoing.send_data(piece(exchange.number, from, len), last)?;
        from += len;
    }
    match &message.trailers {
        Some(trailers) => outgoing.send_trailers(to_map(trailers)),
        None if message.body == 0 => outgoing.send_data(Bytes::new(), true),
        None => Ok(()),
    }
}

/// Receives a body; gives up after `limit` bytes.
async fn recv_body(
    mut incoming: RecvStream,
    exchange: &Exchange,
    message: &Message,
    limit: Option<usize>,
) -> Result<(), h2::Error> {
    let mut from = 0;
    while let Some(data) = incoming.data().await {
        let data = data?;
        from = check_piece(exchange.number, from, &data);
        incoming.flow_control().release_capacity(data.len())?;
        if limit.is_some_and(|limit| from >= limit) {
            return Ok(());
        }
    }
    assert_eq!(from, message.body, "exchange {}", exchange.number);
    let trailers = incoming.trailers().await?;
    assert_eq!(trailers.is_some(), message.trailers.is_some());
    if let (Some(found), Some(expected)) = (&trailers, &message.trailers) {
        check_fields(found, expected);
    }
    Ok(())
}
