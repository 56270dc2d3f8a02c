//! A real HAProxy, as the other end of the PROXY protocol.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use tempfile::TempDir;

use super::process::Process;
use super::{ports, wait};

pub struct Haproxy {
    address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Haproxy {
    /// One that sends what it gets on to `server`, by the mode and the options: `"tcp"`, `"send-proxy-v2"`.
    pub fn before(server: SocketAddr, mode: &str, options: &str) -> Haproxy {
        Haproxy::start(&format!("mode {mode}\nbind {{bind}}\nserver s {server} {options}"))
    }

    /// One that wants a PROXY header and tells, as the body of its answer, `source:port destination:port` as the header
    /// has them.
    pub fn telling_source() -> Haproxy {
        let tells = "%[src]:%[src_port] %[dst]:%[dst_port]";
        Haproxy::start(&format!(
            "mode http\nbind {{bind}} accept-proxy\nhttp-request return status 200 content-type text/plain lf-string \"{tells}\""
        ))
    }

    /// `lines` of a `listen` section; `{bind}` stands for the address found for it.
    #[track_caller]
    fn start(lines: &str) -> Haproxy {
        for _ in 0..5 {
            let address = ports::free("127.0.0.1");
            let folder = tempfile::Builder::new().prefix("hopfall-haproxy-").tempdir().expect("a temporary folder");
            let file = folder.path().join("haproxy.cfg");
            let times = "timeout connect 10s\ntimeout client 60s\ntimeout server 60s";
            let section = lines.replace("{bind}", &address.to_string());
            std::fs::write(&file, format!("global\nnbthread 1\ndefaults\n{times}\nlisten test\n{section}\n")).unwrap();
            let haproxy = std::env::var("HOPFALL_TEST_HAPROXY").unwrap_or_else(|_| "haproxy".to_string());
            // -db: in the foreground.
            let mut process = Process::spawn(Command::new(haproxy).arg("-db").arg("-f").arg(&file));
            wait::wait_until("HAProxy to listen", wait::PATIENCE, || {
                process.exited().is_some() || TcpStream::connect(address).is_ok()
            });
            match process.exited() {
                None => return Haproxy { address, _process: process, _folder: folder },
                // Another process took the port in between.
                Some(_) if process.stderr().contains("in use") => continue,
                Some(_) => panic!("HAProxy did not start: {}", process.stderr()),
            }
        }
        panic!("HAProxy found no free port");
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
    }
}
