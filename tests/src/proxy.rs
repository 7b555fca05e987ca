//! A connection that is cut when COMMIT has been executed, before its answer arrives.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

/// Listens on a port of its own and forwards one connection to `server`, until a message holds COMMIT: the server gets it
/// and answers, the client is cut off instead.
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

fn pump(mut from: TcpStream, mut to: TcpStream, mut forward: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !forward(&buffer[..read]) {
            return;
        }
        if to.write_all(&buffer[..read]).is_err() {
            // Keep reading, so that the sender can finish.
            continue;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
