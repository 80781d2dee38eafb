//! Whose a connection within this machine is.

use std::fs;
use std::net::SocketAddr;

/// The user whose socket is at the other end of a connection within this machine (proc(5), /proc/net/tcp).
pub fn owner(peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    let table = if peer.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let want = format!("{} {}", coded(peer), coded(own));
    let text = fs::read_to_string(table).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote) = (words.next()?, words.next()?);
        let user = words.nth(4)?;
        (format!("{local} {remote}") == want).then(|| user.parse().ok())?
    })
}

/// An address as /proc/net/tcp has it: words of the host's byte order, in hexadecimal.
fn coded(address: SocketAddr) -> String {
    let octets = match address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let word = |word: &[u8]| format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let ip: String = octets.chunks_exact(4).map(word).collect();
    format!("{ip}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_owner_of_a_local_connection_is_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            let user = owner(server.peer_addr().unwrap(), server.local_addr().unwrap());
            assert_eq!(user, Some(rustix::process::geteuid().as_raw()), "{address}");
            drop(client);
        }
    }
}
