//! Sockets that a service manager has opened for this process (sd_listen_fds(3)): a port below 1024 without any right to
//! it, and connections that wait while the service restarts.

use listenfd::ListenFd;
use rustix::io::{FdFlags, fcntl_setfd};

use super::handover::Socket;

/// All of them. Which listener one is for is told by its address.
///
/// # Errors
/// When one is no listening TCP socket.
pub fn sockets() -> anyhow::Result<Vec<Socket>> {
    let mut given = ListenFd::from_env();
    let mut sockets = Vec::new();
    for i in 0..given.len() {
        if let Some(socket) = given.take_tcp_listener(i)? {
            // Programs that this one starts must not hold it open.
            fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
            sockets.push(Socket { name: String::new(), address: socket.local_addr()?, socket });
        }
    }
    Ok(sockets)
}
