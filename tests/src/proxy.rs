//! Connections that are cut when COMMIT has been executed, before its answer arrives; and such that
//! hang.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Listens on a port of its own and forwards one connection to `server`, until a message holds
/// COMMIT: the server gets it and answers, the client is cut off instead.
pub fn cut_behind_commit(server: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let server = TcpStream::connect(server).expect("the server");
    thread::spawn(move || {
        let (client, _) = listener.accept().expect("the client");
        let (back_from, back_to) = (server.try_clone().expect("clone"), client.try_clone().expect("clone"));
        let answers = thread::spawn(move || pump(back_from, back_to, |_| true));
        pump(client.try_clone().expect("clone"), server.try_clone().expect("clone"), |message| {
            if !message.windows(6).any(|word| word == b"COMMIT") {
                return true;
            }
            client.shutdown(Shutdown::Both).expect("cut the client off");
            (&server).write_all(message).expect("the server gets the COMMIT");
            // The server executes it, finds nobody there, and hangs up.
            server.shutdown(Shutdown::Write).expect("no more messages");
            false
        });
        let _ = answers.join();
    });
    address
}

/// Listens on a port of its own, and forwards connections to `server`; what has `this` in it gets
/// there with `that` instead, which is as long.
pub fn instead(server: &str, this: &'static str, that: &'static str) -> String {
    assert_eq!(this.len(), that.len(), "messages tell how long they are");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let server = server.to_owned();
    thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            let server = TcpStream::connect(&server).expect("the server");
            let (back_from, back_to) = (server.try_clone().expect("clone"), client.try_clone().expect("clone"));
            thread::spawn(move || pump(back_from, back_to, |_| true));
            thread::spawn(move || {
                pump(client, server, |message| {
                    if let Some(at) = message.windows(this.len()).position(|words| words == this.as_bytes()) {
                        message[at..at + that.len()].copy_from_slice(that.as_bytes());
                    }
                    true
                });
            });
        }
    });
    address
}

fn pump(mut from: TcpStream, mut to: TcpStream, mut forward: impl FnMut(&mut [u8]) -> bool) {
    let mut buffer = [0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !forward(&mut buffer[..read]) {
            return;
        }
        if to.write_all(&buffer[..read]).is_err() {
            // Keep reading, so that the sender can finish.
            continue;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Listens on a port of its own, and forwards connections to a server.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    open: Arc<Mutex<Vec<Arc<Forwarded>>>>,
}

/// A connection that goes through.
#[derive(Debug)]
struct Forwarded {
    client: TcpStream,
    hangs: AtomicBool,
    loses_answers: AtomicBool,
}

impl Forwarded {
    /// Whether an answer gets to the client. Where it does not the client is cut off, and the server
    /// has done what it was asked.
    fn answers(&self) -> bool {
        let lost = self.loses_answers.load(Ordering::SeqCst);
        if lost {
            let _ = self.client.shutdown(Shutdown::Both);
        }
        !lost
    }
}

impl Proxy {
    /// In front of `server`.
    pub fn new(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let (open, server) = (Arc::new(Mutex::new(Vec::new())), server.to_owned());
        let all = Arc::clone(&open);
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let server = TcpStream::connect(&server).expect("the server");
                // Or each of many small messages would wait for the one before it to be acknowledged.
                for stream in [&client, &server] {
                    stream.set_nodelay(true).expect("set");
                }
                let forwarded = Arc::new(Forwarded {
                    client: client.try_clone().expect("clone"),
                    hangs: AtomicBool::new(false),
                    loses_answers: AtomicBool::new(false),
                });
                all.lock().expect("unpoisoned").push(Arc::clone(&forwarded));
                let (back_from, back_to) = (server.try_clone().expect("clone"), client.try_clone().expect("clone"));
                let back = Arc::clone(&forwarded);
                thread::spawn(move || pump(back_from, back_to, |_| !parked(&back.hangs) && back.answers()));
                thread::spawn(move || pump(client, server, |_| !parked(&forwarded.hangs)));
            }
        });
        Self { address, open }
    }

    /// The URL of a database behind it.
    pub fn in_front_of(&self, url: &str) -> String {
        in_front_of(&self.address, url)
    }

    /// The connections that there are stay open, and carry nothing any more. New ones work.
    pub fn hang(&self) {
        for forwarded in self.open.lock().expect("unpoisoned").drain(..) {
            forwarded.hangs.store(true, Ordering::SeqCst);
        }
    }

    /// The next answer on each of the connections that there are gets lost, and the connection with
    /// it. Says how many there are.
    pub fn lose_answers(&self) -> usize {
        let open: Vec<_> = self.open.lock().expect("unpoisoned").drain(..).collect();
        open.iter().for_each(|forwarded| forwarded.loses_answers.store(true, Ordering::SeqCst));
        open.len()
    }
}

/// The URL of a database, by way of another address.
pub fn in_front_of(address: &str, url: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (server, path) = rest.split_once('/').expect("a database");
    let user = server.rsplit_once('@').map_or(String::new(), |(user, _)| format!("{user}@"));
    // What goes by TLS or by a local socket, the proxy does not see.
    let options = if scheme.starts_with("postgres") { "&sslmode=disable" } else { "?prefer_socket=false" };
    format!("{scheme}://{user}{address}/{path}{options}")
}

/// The address of a database's server.
pub fn server_of(url: &str) -> &str {
    let (_, rest) = url.split_once("://").expect("a URL");
    let (server, _) = rest.split_once('/').expect("a database");
    server.rsplit_once('@').map_or(server, |(_, server)| server)
}

/// Where the connection hangs, its thread does too: neither side gets to see an end.
fn parked(hangs: &AtomicBool) -> bool {
    while hangs.load(Ordering::SeqCst) {
        thread::park();
    }
    false
}
