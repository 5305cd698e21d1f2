//! Against raw sockets and a TLS server: which way requests go, whom they trust, and what is kept of it.
//!
//! `pem/` has a CA and what it signed for `localhost` and `127.0.0.1` and for a client, made by
//! `openssl x509 -req` on P-256 keys that are used nowhere else; valid for a century.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use base64::Engine as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::super::tests::{body, failure, get, head, net, reply, server};
use super::*;
use crate::ports::{HttpRequest, Net};
use crate::secret::Redacted;

const CA_PEM: &str = include_str!("pem/ca.pem");
const SERVER_PEM: &str = include_str!("pem/server.pem");
const CLIENT_PEM: &str = include_str!("pem/client.pem");
const CLIENT_KEY: &str = include_str!("pem/client.key");

fn by(options: TransportOptions, user: Option<&str>) -> Transport {
    let proxy_user = user.map(|user| Redacted::new(user.to_owned()));
    Transport { options: Arc::new(options), proxy_user }
}

fn through(proxy: &str, user: Option<&str>) -> Transport {
    by(TransportOptions { proxy: Some(proxy.to_owned()), ..TransportOptions::default() }, user)
}

fn get_by(url: &str, transport: Transport) -> HttpRequest {
    HttpRequest { transport, ..get(url) }
}

/// A TLS server with the certificate of `pem/`; answers each request with "seen" and the client's certificate.
async fn tls_server(wants_client: bool) -> SocketAddr {
    let pem = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(SERVER_PEM.as_bytes()).unwrap();
    let builder = if wants_client {
        let mut roots = RootCertStore::empty();
        roots.add(pem(CA_PEM)).unwrap();
        ServerConfig::builder()
            .with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
    } else {
        ServerConfig::builder().with_no_client_auth()
    };
    let config = builder.with_single_cert(vec![pem(SERVER_PEM)], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who does not trust us, or has nothing to show, is met in the test itself.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let shown = stream.get_ref().1.peer_certificates().is_some();
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                seen.push(byte);
            }
            let said = stream.write_all(reply("", &format!("seen {shown}")).as_bytes()).await;
            let _closed = said.is_ok() && stream.shutdown().await.is_ok();
        }
    });
    address
}

/// A directory of PEM files, and options that name them.
struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            dir.write(name, text);
        }
        dir
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn options(&self, ca: &str, cert: &str, key: &str) -> TransportOptions {
        let path = |name: &str| (!name.is_empty()).then(|| self.0.path().join(name));
        TransportOptions {
            ca_file: path(ca),
            cert_file: path(cert),
            key_file: path(key),
            ..TransportOptions::default()
        }
    }
}

async fn said(net: &impl Net, request: HttpRequest) -> String {
    let response = net.send(request).await.map_err(|error| error.to_string()).unwrap();
    String::from_utf8(body(response).await.unwrap()).unwrap()
}

#[tokio::test]
async fn trust_comes_from_the_system_a_file_or_nowhere() {
    let address = tls_server(false).await;
    let url = format!("https://{address}/?secret");
    let net = net();
    let error = failure(&net, get(&url)).await;
    assert_eq!(error.kind, NetErrorKind::Tls, "{error}");
    assert!(error.message.contains("UnknownIssuer") && !error.message.contains("secret"), "{error}");

    let insecure = TransportOptions { insecure: true, ..TransportOptions::default() };
    assert_eq!(said(&net, get_by(&url, by(insecure, None))).await, "seen false");

    // Among others, as in a real bundle.
    let files = Files::new(&[("bundle", &format!("# ours\n{CLIENT_PEM}\n{CA_PEM}"))]);
    let trusting = by(files.options("bundle", "", ""), None);
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("https://{host}:{}/", address.port());
        assert_eq!(said(&net, get_by(&url, trusting.clone())).await, "seen false");
    }
    // The file gives trust to the CA, not to any name; and one job's trust is not another's.
    let other = format!("https://127.0.0.2:{}/", address.port());
    assert_ne!(failure(&net, get_by(&other, trusting)).await.kind, NetErrorKind::Broken);
    assert_eq!(failure(&net, get(&url)).await.kind, NetErrorKind::Tls);
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_one_is_asked_for() {
    let url = format!("https://{}/", tls_server(true).await);
    let files = Files::new(&[
        ("ca", CA_PEM),
        ("cert", CLIENT_PEM),
        ("key", CLIENT_KEY),
        ("both", &format!("{CLIENT_KEY}{CLIENT_PEM}")),
        // Its own key would not fit; the key file's is taken.
        (
            "other-key",
            &format!("{CLIENT_PEM}{}", &SERVER_PEM[SERVER_PEM.find("-----BEGIN PRIVATE").unwrap()..]),
        ),
    ]);
    let net = net();
    for (cert, key) in [("cert", "key"), ("both", ""), ("other-key", "key")] {
        let options = files.options("ca", cert, key);
        assert_eq!(said(&net, get_by(&url, by(options, None))).await, "seen true", "{cert}, {key}");
    }
    let error = failure(&net, get_by(&url, by(files.options("ca", "", ""), None))).await;
    assert_eq!(error.kind, NetErrorKind::Tls, "{error}");
    assert!(error.message.ends_with("or none: received fatal alert: CertificateRequired"), "{error}");
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_and_not_quoted() {
    let server_key = &SERVER_PEM[SERVER_PEM.find("-----BEGIN PRIVATE").unwrap()..];
    let garbage = "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n";
    let files = Files::new(&[
        ("ca", CA_PEM),
        ("cert", CLIENT_PEM),
        ("key", CLIENT_KEY),
        ("none", "secret"),
        ("broken", "-----BEGIN CERTIFICATE-----\nsecret!\n-----END CERTIFICATE-----\n"),
        ("garbage", garbage),
        ("locked", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VjcmV0\n-----END ENCRYPTED PRIVATE KEY-----\n"),
        ("server-key", server_key),
        ("large", &"secret\n".repeat(PEM_MAX as usize / 7 + 1)),
    ]);
    std::fs::create_dir(files.0.path().join("dir")).unwrap();
    let cases = [
        (files.options("absent", "", ""), "absent", "No such file"),
        (files.options("dir", "", ""), "dir", "no regular file"),
        (files.options("none", "", ""), "none", "no certificate"),
        (files.options("broken", "", ""), "broken", "invalid certificate encoding"),
        (files.options("garbage", "", ""), "garbage", "no usable certificate"),
        (files.options("large", "", ""), "large", "more than"),
        (files.options("ca", "cert", ""), "cert", "private key or certificate not found"),
        (files.options("ca", "cert", "absent"), "absent", "No such file"),
        (files.options("ca", "cert", "ca"), "ca", "private key or certificate not found"),
        (files.options("ca", "cert", "server-key"), "server-key", "keys may not be consistent"),
        (files.options("ca", "cert", "locked"), "locked", "encrypted"),
        (files.options("ca", "garbage", "key"), "garbage", ""),
        (files.options("ca", "", "key"), "key", "needs a certificate file"),
    ];
    let net = net();
    for (options, name, why) in cases {
        let path = files.0.path().join(name).display().to_string();
        let error = failure(&net, get_by("https://127.0.0.1:1/", by(options, None))).await;
        assert_eq!(error.kind, NetErrorKind::Refused, "{error}");
        assert!(error.message.contains(&path) && error.message.contains(why), "{error}");
        assert!(!error.message.contains("secret") && !error.message.contains("c2Vj"), "{error}");
    }
}

#[tokio::test]
async fn files_are_read_again_once_they_have_changed() {
    let url = format!("https://{}/", tls_server(false).await);
    let files = Files::new(&[("ca", CLIENT_PEM)]);
    let trusting = || by(files.options("ca", "", ""), None);
    let net = net();
    assert_eq!(failure(&net, get_by(&url, trusting())).await.kind, NetErrorKind::Tls);
    files.write("ca", CA_PEM);
    assert_eq!(said(&net, get_by(&url, trusting())).await, "seen false");
    let made = net.clients.of(&trusting()).await.unwrap();
    assert!(Arc::ptr_eq(&made, &net.clients.of(&trusting()).await.unwrap()));
    // While it is being replaced, what it was still counts; and then what it has become.
    for gap in [Some("half a file"), None] {
        match gap {
            Some(text) => files.write("ca", text),
            None => std::fs::remove_file(files.0.path().join("ca")).unwrap(),
        }
        assert_eq!(said(&net, get_by(&url, trusting())).await, "seen false");
    }
    files.write("ca", CLIENT_PEM);
    assert_eq!(failure(&net, get_by(&url, trusting())).await.kind, NetErrorKind::Tls);
    let sets = net.clients.sets();
    assert_eq!(sets.len(), 2, "the ordinary set, and one for the file");
}

#[tokio::test]
async fn only_so_many_sets_are_kept() {
    let clients = Arc::new(Clients::new(crate::os::NetOptions::default()).unwrap());
    let way = |at: usize| through(&format!("http://proxy:{}", at + 1), None);
    let first = clients.of(&way(0)).await.unwrap();
    for at in 1..SETS_MAX + 3 {
        clients.of(&way(at)).await.unwrap();
        assert!(Arc::ptr_eq(&first, &clients.of(&way(0)).await.unwrap()), "in use, so kept");
        assert!(clients.sets().len() <= SETS_MAX);
    }
    assert!(!clients.sets().iter().any(|set| set.is_for(&way(1)) || set.is_for(&Transport::default())));
    // Another user at the same proxy has connections of their own.
    let user = |user| through("http://proxy:1", Some(user));
    assert!(!Arc::ptr_eq(&clients.of(&user("a:1")).await.unwrap(), &clients.of(&user("a:2")).await.unwrap()));
    assert!(!format!("{clients:?}").contains("a:1"));
}

#[tokio::test]
async fn an_http_proxy_gets_the_request_and_its_user() {
    let (proxy, heads) = server(vec![reply("", "by proxy"); 2]).await;
    let net = net();
    for proxy in [format!("http://{proxy}"), proxy.to_string()] {
        let request = get_by("http://nobody.invalid/x", through(&proxy, Some("me%41 @:p:w/%")));
        assert_eq!(said(&net, request).await, "by proxy");
    }
    for head in &*heads.lock().unwrap() {
        assert!(head.starts_with("get http://nobody.invalid/x http/1.1\r\n"), "{head}");
        let value = base64::engine::general_purpose::STANDARD.encode("me%41 @:p:w/%").to_lowercase();
        assert!(head.contains(&format!("proxy-authorization: basic {value}\r\n")), "{head}");
    }
}

#[tokio::test]
async fn a_tunnel_is_asked_for_and_its_end_is_checked() {
    let there = tls_server(false).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let relay: JoinHandle<String> = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
        let mut onward = TcpStream::connect(there).await.unwrap();
        let _moved = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
        head
    });
    let files = Files::new(&[("ca", CA_PEM)]);
    let mut options = files.options("ca", "", "");
    options.proxy = Some(format!("http://{proxy}"));
    let request = get_by("https://localhost:9/", by(options, Some("me:pw")));
    let net = net();
    assert_eq!(said(&net, request).await, "seen false");
    drop(net);
    let head = relay.await.unwrap();
    assert!(head.starts_with("connect localhost:9 http/1.1\r\n"), "{head}");
    assert!(head.contains("proxy-authorization: basic bwu6chc=\r\n"), "{head}");
}

/// Speaks SOCKS 5 with a name and password (RFC 1928, RFC 1929), then HTTP; says whom it was asked for.
async fn socks_server(name: &'static [u8], password: &'static [u8]) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = async |len: usize, answer: &[u8]| {
            let mut got = vec![0; len];
            stream.read_exact(&mut got).await.unwrap();
            stream.write_all(answer).await.unwrap();
            got
        };
        let [_, methods] = read(2, b"").await[..] else { unreachable!() };
        assert!(read(methods.into(), &[5, 2]).await.contains(&2));
        let user = read(3 + name.len() + password.len(), &[1, 0]).await;
        let sizes = (name.len() as u8, password.len() as u8);
        assert_eq!(user, [&[1, sizes.0], name, &[sizes.1], password].concat());
        let [5, 1, 0, kind] = read(4, b"").await[..] else { panic!("no connect") };
        let len = match kind {
            1 => 4,
            3 => read(1, b"").await[0].into(),
            _ => 16,
        };
        let mut target = vec![kind];
        target.extend(read(len + 2, &[5, 0, 0, 1, 127, 0, 0, 1, 0, 9]).await);
        head(&mut stream).await;
        stream.write_all(reply("", "by socks").as_bytes()).await.unwrap();
        target
    });
    (address, task)
}

#[tokio::test]
async fn a_socks_proxy_gets_the_name_or_its_address() {
    let cases: [(&str, &str, &[u8]); 4] = [
        // Only the proxy can know this name.
        ("socks5h", "http://nobody.invalid:258/", b"\x03nobody.invalid\x01\x02"),
        ("socks5", "http://127.0.0.9:258/", b"\x01\x7f\x00\x00\x09\x01\x02"),
        ("socks5", "http://[::1]:258/", b"\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01\x02"),
        ("socks5h", "http://127.0.0.9:258/", b"\x01\x7f\x00\x00\x09\x01\x02"),
    ];
    let net = net();
    for (scheme, url, target) in cases {
        let (proxy, served) = socks_server(b"me%41", b"p:w").await;
        let request = get_by(url, through(&format!("{scheme}://{proxy}"), Some("me%41:p:w")));
        assert_eq!(said(&net, request).await, "by socks", "{scheme} {url}");
        assert_eq!(served.await.unwrap(), target, "{scheme} {url}");
    }
    let (proxy, _) = socks_server(b"", b"").await;
    let unknown = get_by("http://nobody.invalid/", through(&format!("socks5://{proxy}"), None));
    assert_eq!(failure(&net, unknown).await.kind, NetErrorKind::Offline, "its name is ours to resolve");
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_no_connection_and_a_bad_one_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let net = net();
    for scheme in ["http", "https", "socks5", "socks5h"] {
        for url in ["http://127.0.0.1:9/", "https://127.0.0.1:9/"] {
            let error = failure(&net, get_by(url, through(&format!("{scheme}://{nobody}"), None))).await;
            assert_eq!(error.kind, NetErrorKind::Connect, "{scheme} {url}: {error}");
            // Of a SOCKS proxy the HTTP layer tells no more.
            let why = ["refused", "SOCKS error: failed to create underlying connection"];
            assert!(why.iter().any(|why| error.message.contains(why)), "{scheme} {url}: {error}");
        }
    }
    for (bad, why) in [
        ("ftp://h", "scheme ftp"),
        ("socks4://h", "scheme socks4"),
        ("http://", "host"),
        ("http://h:x", "port"),
    ] {
        let error = failure(&net, get_by("http://127.0.0.1:9/", through(bad, Some("me:secret")))).await;
        assert_eq!(error.kind, NetErrorKind::Refused, "{error}");
        assert!(error.message.contains(why) && !error.message.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn no_proxy_at_all_can_be_asked_for() {
    let (at, heads) = server(vec![reply("", "direct")]).await;
    let net = super::super::HttpNet::new(crate::os::NetOptions::default()).unwrap();
    assert_eq!(said(&net, get_by(&format!("http://{at}/"), through("", None))).await, "direct");
    assert!(heads.lock().unwrap()[0].starts_with("get / "));
}

#[test]
fn the_environments_proxies_can_be_given_a_user() {
    let found = |set: &[(&str, &str)]| {
        let set: BTreeMap<_, _> = set.iter().copied().collect();
        environment(|name| set.get(name).map(ToString::to_string), "me:pw").map(|found| format!("{found:?}"))
    };
    assert_eq!(found(&[]).unwrap(), "[]");
    let http = found(&[("http_proxy", "proxy:1"), ("NO_PROXY", "localhost")]).unwrap();
    assert!(http.contains("Http(") && !http.contains("Https(") && http.contains("localhost"), "{http}");
    let all = found(&[("ALL_PROXY", "socks5h://proxy:1"), ("HTTPS_PROXY", "http://other:2")]).unwrap();
    assert!(all.contains("socks5h") && all.contains("Https(") && all.contains("other"), "{all}");
    assert_eq!(found(&[("HTTP_PROXY", "proxy:1"), ("REQUEST_METHOD", "GET")]).unwrap(), "[]");
    assert_eq!(found(&[("HTTP_PROXY", "gopher://proxy")]).unwrap_err().kind, NetErrorKind::Refused);
}
