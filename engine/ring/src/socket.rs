//! Addresses, transports and the socket calls: what happens before the ring takes over.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use crate::error::SocketError;
use crate::sys::{check, owned, set_option};

/// A connection of a reactor; never reused for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub(crate) u64);

/// A listening socket of a reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub(crate) u32);

/// Where to listen or whom to dial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP, always with TCP_NODELAY.
    Tcp(SocketAddr),
    /// A Unix stream socket. Empty for an unnamed peer.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What runs on a connection below its bytes.
#[derive(Clone, Debug)]
pub enum Transport {
    /// Nothing: a Unix socket, or a test on loopback.
    Plain,
    /// TLS, this side dialling; the name says whom to expect.
    TlsClient(Arc<ClientConfig>, ServerName<'static>),
    /// TLS, this side listening.
    TlsServer(Arc<ServerConfig>),
}

/// A socket address as the kernel wants it, at a fixed place while an operation uses it.
pub(crate) struct RawAddress {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl RawAddress {
    pub(crate) fn new(address: &Address) -> Result<Self, SocketError> {
        // SAFETY: all-zero is a valid sockaddr_storage.
        let mut storage: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
        let place = std::ptr::from_mut(&mut storage);
        let length = match address {
            Address::Tcp(SocketAddr::V4(v4)) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is large and aligned enough for every address.
                unsafe { place.cast::<libc::sockaddr_in>().write(raw) };
                size_of_val(&raw)
            }
            Address::Tcp(SocketAddr::V6(v6)) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { place.cast::<libc::sockaddr_in6>().write(raw) };
                size_of_val(&raw)
            }
            Address::Unix(path) => {
                use std::os::unix::ffi::OsStrExt;
                let bytes = path.as_os_str().as_bytes();
                let mut raw = libc::sockaddr_un {
                    sun_family: libc::AF_UNIX as libc::sa_family_t,
                    sun_path: [0; 108],
                };
                if bytes.len() >= raw.sun_path.len() {
                    return Err(SocketError::PathTooLong {
                        address: address.to_string(),
                    });
                }
                for (to, from) in raw.sun_path.iter_mut().zip(bytes) {
                    *to = *from as libc::c_char;
                }
                // SAFETY: as above.
                unsafe { place.cast::<libc::sockaddr_un>().write(raw) };
                size_of_val(&raw)
            }
        };
        Ok(Self {
            storage,
            length: length as libc::socklen_t,
        })
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        std::ptr::from_ref(&self.storage).cast()
    }

    pub(crate) fn length(&self) -> libc::socklen_t {
        self.length
    }

    fn family(&self) -> i32 {
        self.storage.ss_family.into()
    }
}

/// A fresh stream socket for dialling `address`.
pub(crate) fn dialling(address: &Address, raw: &RawAddress) -> Result<OwnedFd, SocketError> {
    stream_socket(raw.family()).map_err(|source| failed("dial", address, source))
}

/// The round trip that the kernel has measured on a TCP socket, smoothed; none on one of another kind, or before
/// anything was acknowledged.
pub(crate) fn round_trip(fd: &OwnedFd) -> Option<Duration> {
    // SAFETY: all-zero is a valid tcp_info.
    let mut info: libc::tcp_info = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which is so long and lives on; it holds integers
    // only, so that whatever is written is valid.
    let got = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            std::ptr::from_mut(&mut info).cast(),
            &raw mut length,
        )
    };
    (got == 0 && info.tcpi_rtt > 0).then(|| Duration::from_micros(info.tcpi_rtt.into()))
}

/// A socket that listens at `address`. A Unix path left over by a dead process is replaced.
pub(crate) fn listening(address: &Address) -> Result<OwnedFd, SocketError> {
    let raw = RawAddress::new(address)?;
    let fail = |source| failed("listen at", address, source);
    if let Address::Unix(path) = address {
        use std::os::unix::fs::FileTypeExt;
        let left_over = std::fs::symlink_metadata(path)
            .is_ok_and(|metadata| metadata.file_type().is_socket())
            && std::os::unix::net::UnixStream::connect(path).is_err();
        if left_over {
            std::fs::remove_file(path).map_err(fail)?;
        }
    }
    let fd = stream_socket(raw.family()).map_err(fail)?;
    if matches!(address, Address::Tcp(_)) {
        set_option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).map_err(fail)?;
    }
    // SAFETY: pointer and length describe a live address.
    check(unsafe { libc::bind(fd.as_raw_fd(), raw.as_ptr(), raw.length()) }).map_err(fail)?;
    // SAFETY: takes no pointer.
    check(unsafe { libc::listen(fd.as_raw_fd(), 1024) }).map_err(fail)?;
    Ok(fd)
}

/// The address a socket is bound to.
pub(crate) fn local_address(fd: RawFd) -> io::Result<Address> {
    name(fd, libc::getsockname)
}

/// The address at its other end.
pub(crate) fn peer_address(fd: RawFd) -> io::Result<Address> {
    name(fd, libc::getpeername)
}

/// Where it is TCP. TCP_NODELAY: without it a depth above one stalls 40 ms at a time. Keepalive: a machine that loses
/// its power says nothing, and a connection to it on which nothing is sent would stand for ever, also once the machine
/// is back and knows nothing of it; now it is over after 5 s. One on which something was sent is asked again and again,
/// until the machine is back and refuses it. There is no TCP_USER_TIMEOUT: it would also end connections to those who
/// only take nothing for a while.
pub(crate) fn tune(fd: RawFd, address: &Address) {
    const OPTIONS: [(i32, i32, i32); 5] = [
        (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 2),  // s
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 1), // s
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
    ];
    if matches!(address, Address::Tcp(_)) {
        for (level, name, value) in OPTIONS {
            // A socket that is already broken says so at its first transfer.
            let _ = set_option(fd, level, name, value);
        }
    }
}

fn stream_socket(family: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    owned(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })
}

type NameCall =
    unsafe extern "C" fn(RawFd, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn name(fd: RawFd, call: NameCall) -> io::Result<Address> {
    // SAFETY: all-zero is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut length = size_of_val(&storage) as libc::socklen_t;
    let place = std::ptr::from_mut(&mut storage);
    // SAFETY: `place` is writable for `length` bytes.
    check(unsafe { call(fd, place.cast(), &mut length) })?;
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote an address of this family.
            let raw = unsafe { place.cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Ok(Address::Tcp(SocketAddr::new(
                IpAddr::V4(ip),
                u16::from_be(raw.sin_port),
            )))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let raw = unsafe { place.cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            let address = SocketAddrV6::new(ip, port, raw.sin6_flowinfo, raw.sin6_scope_id);
            Ok(Address::Tcp(SocketAddr::V6(address)))
        }
        _ => {
            use std::os::unix::ffi::OsStringExt;
            // SAFETY: as above; unnamed sockets leave the path zero.
            let raw = unsafe { place.cast::<libc::sockaddr_un>().read() };
            let path: Vec<u8> = raw
                .sun_path
                .iter()
                .take_while(|c| **c != 0)
                .map(|c| *c as u8)
                .collect();
            Ok(Address::Unix(std::ffi::OsString::from_vec(path).into()))
        }
    }
}

fn failed(action: &'static str, address: &Address, source: io::Error) -> SocketError {
    SocketError::System {
        action,
        address: address.to_string(),
        source,
    }
}
