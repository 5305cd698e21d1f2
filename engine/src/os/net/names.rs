//! Names into addresses: those that there is a way to, and for some redirects only those of the Internet.
//!
//! An address of a family that this machine has no route for is left out where another has one. Otherwise a
//! server that refuses its IPv4 address would look, by its IPv6 address, as if the network were away: of two
//! families the connector reports the failure of the last it tried.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::super::redirect::is_public;

/// Asks the system's resolver. Asked at each connect, so that a name that changes its address between two
/// looks gains nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    /// Knows public addresses only.
    pub(super) public_only: bool,
}

/// The name leads nowhere else than into a private network.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotPublic;

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redirect from a public address to a private one")
    }
}

impl Error for NotPublic {}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let public_only = self.public_only;
        Box::pin(async move {
            // An IPv6 address comes in the brackets of its URL when a SOCKS proxy is asked for it.
            let host = name.as_str();
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            let mut found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            if public_only && !found.is_empty() {
                found.retain(|address| is_public(address.ip()));
                if found.is_empty() {
                    return Err(Box::new(NotPublic) as Box<dyn Error + Send + Sync>);
                }
            }
            Ok(Box::new(reachable(found, has_route).into_iter()) as Addrs)
        })
    }
}

/// Leaves out what there is no way to, if there is a way to any.
fn reachable(mut found: Vec<SocketAddr>, has_route: impl Fn(SocketAddr) -> bool) -> Vec<SocketAddr> {
    let mixed = found.iter().any(SocketAddr::is_ipv4) && found.iter().any(SocketAddr::is_ipv6);
    let routed = |address: &SocketAddr| has_route(*address);
    if mixed && found.iter().any(routed) {
        found.retain(routed);
    }
    found
}

/// Asks the kernel; nothing is sent. Any other trouble than the missing way is none of the address's.
fn has_route(address: SocketAddr) -> bool {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // The discard port: connecting to port 0 is an error of its own.
    let tried = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address.ip(), 9)));
    let no_family = |error: &io::Error| {
        error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
            || matches!(
                error.kind(),
                io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::AddrNotAvailable
            )
    };
    !tried.is_err_and(|error| no_family(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_leads_home_is_not_public() {
        let resolve = |public_only, name: &str| Names { public_only }.resolve(name.parse().unwrap());
        let error = resolve(true, "localhost").await.err().unwrap();
        assert!(error.is::<NotPublic>());
        assert!(resolve(false, "localhost").await.unwrap().all(|address| address.ip().is_loopback()));
        assert!(resolve(false, "nobody.invalid").await.is_err());
        let six: Vec<_> = resolve(false, "[::1]").await.unwrap().map(|address| address.ip()).collect();
        assert_eq!(six, [IpAddr::from(Ipv6Addr::LOCALHOST)]);
    }

    #[test]
    fn addresses_without_a_way_are_left_out_if_others_have_one() {
        let [four, other, six] =
            ["1.1.1.1:0", "2.2.2.2:0", "[2606:4700::1111]:0"].map(|text| text.parse::<SocketAddr>().unwrap());
        let all = vec![six, four, other];
        assert_eq!(reachable(all.clone(), |address| address.is_ipv4()), [four, other]);
        assert_eq!(reachable(all.clone(), |address| address.is_ipv6()), [six]);
        assert_eq!(reachable(all.clone(), |_| true), all);
        assert_eq!(reachable(all.clone(), |_| false), all);
        // Of one family, the connector's order and its first error are right as they are.
        assert_eq!(reachable(vec![four, other], |address| address == other), [four, other]);
    }

    #[test]
    fn the_way_home_is_always_there() {
        assert!(has_route("127.0.0.1:0".parse().unwrap()));
    }
}
