//! Peers in the process of the test.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use socket2::{Domain, Socket, Type};

use crate::wait::PATIENCE;

/// A TCP server that runs `serve` on a thread for each connection.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves on a free port.
    pub fn start(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), serve)
    }

    /// Serves on `address`.
    pub fn start_at(
        address: SocketAddr,
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::start_on(TcpListener::bind(address).expect("the address is free"), serve)
    }

    /// Serves on `listener`.
    pub fn start_on(
        listener: TcpListener,
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted, serve) = (Arc::clone(&stop), Arc::clone(&accepted), Arc::new(serve));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                counted.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                // An error only shows at the client, as the end of its connection.
                std::thread::spawn(move || drop(serve(stream)));
            }
        });
        Self { address, stop, accepted, thread: Some(thread) }
    }

    /// Echoes what it receives.
    pub fn echo() -> Self {
        Self::start(echo)
    }

    /// Sends `greeting` first, then echoes what it receives.
    pub fn greeter(greeting: &'static str) -> Self {
        Self::start(move |mut stream| {
            stream.write_all(greeting.as_bytes())?;
            echo(stream)
        })
    }

    /// The address it listens on.
    pub const fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The number of connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, so that the port is free when this returns.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(std::net::Shutdown::Write),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

/// A port that refuses connections, and that nothing else gets meanwhile.
#[derive(Debug)]
pub struct RefusingPort(Socket);

impl RefusingPort {
    /// Takes a free port.
    pub fn take() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a port is free");
        Self(socket)
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        let address = self.0.local_addr().expect("it is bound");
        address.as_socket().expect("an IP address")
    }

    /// Accepts connections from now on.
    pub fn listen(self) -> TcpListener {
        self.0.listen(128).expect("it can listen");
        self.0.into()
    }
}

/// A UDP server that replies to each datagram with what `answer` returns for it.
#[derive(Debug)]
pub struct UdpServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    /// Serves on a free port; each reply is a list of datagrams.
    pub fn start(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        let address = socket.local_addr().expect("it is bound");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((count, from)) = socket.recv_from(&mut buffer) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                for datagram in answer(&buffer[..count]) {
                    let _ = socket.send_to(&datagram, from);
                }
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    /// Echoes what it receives, with `mark` in front.
    pub fn echo(mark: &'static str) -> Self {
        Self::start(move |datagram| vec![[mark.as_bytes(), datagram].concat()])
    }

    /// The address it listens on.
    pub const fn addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Ok(socket) = UdpSocket::bind("127.0.0.1:0") {
            let _ = socket.send_to(b"", self.address);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client connection whose reads time out.
#[track_caller]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    stream
}

/// Sends `words` and reads the same number of bytes back.
#[track_caller]
pub fn exchange(stream: &mut TcpStream, words: &[u8]) -> Vec<u8> {
    stream.write_all(words).expect("it is sent");
    read(stream, words.len())
}

/// Reads exactly `count` bytes.
#[track_caller]
pub fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut got = vec![0; count];
    stream.read_exact(&mut got).expect("the bytes come back");
    got
}

/// Reads to the end; returns how the stream ended, and the bytes before that.
pub fn read_to_end(stream: &mut TcpStream) -> (io::Result<()>, Vec<u8>) {
    let mut got = Vec::new();
    let end = stream.read_to_end(&mut got).map(drop);
    (end, got)
}

/// A UDP client whose reads time out.
#[track_caller]
pub fn udp_client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    socket
}

/// Makes the next close send a RST.
pub fn reset_on_close(stream: &TcpStream) {
    let linger = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
    linger.expect("linger can be set");
}
