//! A service manager's end of sd_notify(3).

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Instant;

use super::wait::PATIENCE;

pub struct ServiceManager {
    socket: UnixDatagram,
}

impl ServiceManager {
    /// One that listens at `path`, to every user.
    pub fn at(path: &Path) -> ServiceManager {
        let socket = UnixDatagram::bind(path).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        ServiceManager { socket }
    }

    /// Waits for a message that has this line, or one that begins so if it ends in `=`. Gives the line.
    #[track_caller]
    pub fn hear(&self, line: &str) -> String {
        let end = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while Instant::now() < end {
            let mut bytes = [0; 4096];
            let length = self.socket.recv(&mut bytes).unwrap_or_else(|error| panic!("{line}: {error}: {heard:?}"));
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if let Some(own) = text.lines().find(|own| *own == line || (line.ends_with('=') && own.starts_with(line))) {
                return own.to_owned();
            }
            heard.push(text);
        }
        panic!("{line} was not among {heard:?}");
    }
}
