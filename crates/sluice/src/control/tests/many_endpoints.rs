//! A cluster with thousands of endpoints from a file: what a change of the file costs the control thread and a worker.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// So many servers on this host, each on a port of its own, and how many connections they have.
fn servers(many: usize) -> (Vec<SocketAddr>, Arc<AtomicUsize>) {
    let bind = |_| TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets: Vec<TcpListener> = (0..many).map(bind).collect();
    let addresses = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
    let open = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&open);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default());
        runtime.unwrap().block_on(async {
            for socket in sockets {
                socket.set_nonblocking(true).unwrap();
                let socket = tokio::net::TcpListener::from_std(socket).unwrap();
                tokio::task::spawn_local(serve(socket, Arc::clone(&count)));
            }
            std::future::pending::<()>().await;
        });
    });
    (addresses, open)
}

/// Accepts connections, and answers every request.
async fn serve(socket: tokio::net::TcpListener, count: Arc<AtomicUsize>) {
    while let Ok((mut stream, _)) = socket.accept().await {
        let count = Arc::clone(&count);
        count.fetch_add(1, SeqCst);
        tokio::task::spawn_local(async move {
            let mut request = [0; 1024];
            while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                let response = b"HTTP/1.1 204 No Content\r\n\r\n";
                if stream.write_all(response).await.is_err() {
                    break;
                }
            }
            count.fetch_sub(1, SeqCst);
        });
    }
}

/// The file that lists them.
fn listed(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(|address| format!("- {address}\n")).collect()
}

/// A client that asks over one connection.
async fn ask(client: &mut tokio::net::TcpStream, times: usize) {
    for _ in 0..times {
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            assert!(client.read_buf(&mut response).await.unwrap() > 0);
        }
        assert!(response.starts_with(b"HTTP/1.1 204"), "{}", String::from_utf8_lossy(&response));
    }
}

/// How long the worker of this process has been on a processor: that of all, if other tests run beside this one.
fn worker_cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let folders = tasks.map(|task| task.unwrap().path());
    let of_worker = |folder: &PathBuf| {
        std::fs::read_to_string(folder.join("comm")).is_ok_and(|name| name.trim() == "sluice-0")
    };
    let times = folders.filter(of_worker).map(|folder| {
        // The worker of another test may have ended.
        let text = std::fs::read_to_string(folder.join("schedstat")).unwrap_or_default();
        let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.unwrap_or(0))
    });
    times.sum()
}

fn since(before: Duration) -> Duration {
    worker_cpu().saturating_sub(before)
}

/// Prints what a file costs half of whose endpoints are replaced by others, while every endpoint has an idle connection.
/// `SLUICE_BENCH_ENDPOINTS` sets how many there are: see docs/performance.md.
#[test]
#[allow(clippy::print_stdout, reason = "it is the output of the measurement")]
fn a_file_of_many_endpoints_is_replaced() {
    let many = std::env::var("SLUICE_BENCH_ENDPOINTS");
    let many: usize = many.map_or(60, |many| many.parse().expect("a number of endpoints"));
    let (addresses, open) = servers(many + many / 2);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("endpoints.yaml");
    std::fs::write(&file, listed(&addresses[..many])).unwrap();
    let yaml = format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: all }}]\nroutes: {{ all: {{ cluster: up }} }}\n\
         clusters: {{ up: {{ endpoints_file: \"{}\" }} }}\n",
        file.display()
    );
    with_control(&yaml, async |control| {
        let mut client = tokio::net::TcpStream::connect(address_of(&control, "web")).await.unwrap();
        ask(&mut client, many).await;
        assert_eq!(open.load(SeqCst), many, "an idle connection to each");
        std::fs::write(&file, listed(&addresses[many / 2..])).unwrap();

        let (control_before, before) = (process::thread_cpu(), worker_cpu());
        control.reread_endpoints().await;
        // The worker is told of those that left on a task; whatever it was told has been done once it answers.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let counted = control.workers[0].ask(WorkerCommand::Count).await;
        assert_eq!(counted.map(|count| count.values().sum::<usize>()), Some(1));
        let (control_cpu, told) = (process::thread_cpu() - control_before, since(before));

        let before = worker_cpu();
        ask(&mut client, 1).await;
        let first = since(before);
        let before = worker_cpu();
        ask(&mut client, 1).await;
        let second = since(before);

        let before = worker_cpu();
        while open.load(SeqCst) > many / 2 + 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let closed = since(before);
        println!("{many} endpoints, half of them replaced:");
        println!("{} us on the control thread", control_cpu.as_micros());
        println!("{} us on the worker to take note of it", told.as_micros());
        println!(
            "{} us for the first request after it, {} for the next",
            first.as_micros(),
            second.as_micros()
        );
        println!("{} us for closing {} connections, in portions", closed.as_micros(), many / 2);
    });
}
