//! This machine: ports, limits, files and folders.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use rustix::fs::{Access, access};
use serde::Deserialize;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Finding;
use crate::config::{self, Config, Destination};
use crate::disk::{self, Claim, Settings};

/// Whether the address can be bound. Nothing listens on it meanwhile, so that no client is drawn to it.
pub(super) async fn port(config: Arc<Config>, about: String, address: SocketAddr) -> Vec<Finding> {
    let error = match bind(address) {
        Ok(()) => return vec![Finding::ok(&about, format!("{address} can be bound"))],
        Err(error) => error,
    };
    vec![match error.kind() {
        ErrorKind::AddrInUse => {
            let admin = config.admin.as_ref().map(|admin| admin.address);
            let running = match admin {
                Some(admin) => listening(admin).await.map(|own| (admin, admin == address || own.contains(&address))),
                None => None,
            };
            let what = match running {
                Some((admin, true)) => {
                    let what = format!("{address} is taken, and a hopfall runs here (its admin {admin} answers)");
                    return vec![Finding::ok(&about, what)];
                }
                Some((_, false)) => format!("{address} is taken, and not by a listener of the hopfall that runs here"),
                None => format!("{address} is taken by another program"),
            };
            let fix = format!("stop it (`ss -ltnp 'sport = :{}'` names it), or choose another address", address.port());
            Finding::error(&about, what, fix)
        }
        ErrorKind::PermissionDenied => Finding::error(
            &about,
            format!("{address} may not be bound: ports below 1024 are root's"),
            "give it the capability CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities), or choose a higher port",
        ),
        ErrorKind::AddrNotAvailable => Finding::error(
            &about,
            format!("{address} is no address of this machine"),
            "write one of its own (`ip address`), or 0.0.0.0 or [::] for all",
        ),
        _ => Finding::error(&about, format!("{address} cannot be bound: {error}"), "choose another address"),
    }]
}

fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// The addresses of the listeners of a hopfall, if its admin listener answers there.
async fn listening(admin: SocketAddr) -> Option<Vec<SocketAddr>> {
    let admin = config::as_asked_from_here(admin);
    let asking = async {
        let mut stream = TcpStream::connect(admin).await?;
        let request = format!("GET /status.json HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MOST_STATUS).read_to_end(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = timeout(Duration::from_secs(2), asking).await.ok()?.ok()?;
    let (_, body) = std::str::from_utf8(&answer).ok()?.split_once("\r\n\r\n")?;
    let status: Running = serde_json::from_str(body).ok()?;
    Some(status.listeners.into_iter().map(|listener| listener.address).collect())
}

/// What is of interest here of a hopfall's status.
#[derive(Deserialize)]
struct Running {
    listeners: Vec<Listening>,
}

#[derive(Deserialize)]
struct Listening {
    address: SocketAddr,
}

/// A status with thousands of nodes is smaller.
const MOST_STATUS: u64 = 16 << 20;

/// Open files, and the kernel.
pub(super) async fn limits(config: Arc<Config>) -> Vec<Finding> {
    let hard = rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(u64::MAX, |(_, hard)| hard);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    [open_files(hard, config.files_wanted()), kernel(release.trim())].into()
}

fn open_files(hard: u64, wanted: u64) -> Finding {
    if hard >= wanted {
        return Finding::ok("machine", format!("{wanted} files may be open, as `max_connections` may need"));
    }
    Finding::warn(
        "machine",
        format!("at most {hard} files may be open, and `max_connections` may need {wanted}"),
        "raise the limit (systemd: LimitNOFILE; else ulimit -n), or lower `max_connections`",
    )
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (6, 2) || version == (0, 0) {
        return Finding::ok("machine", format!("Linux {release}"));
    }
    Finding::warn(
        "machine",
        format!("Linux {release} does not tell what a client has taken in (6.2 does): a slow client may look stalled"),
        "upgrade the kernel, or raise `stall_timeout` of listeners with slow clients",
    )
}

/// What logs and the location map write to.
pub(super) fn paths(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    for (about, key, output) in
        [("access log", "log.access.path", &config.log.access.output), ("log", "log.path", &config.log.messages)]
    {
        if let Destination::File(path) = &output.to {
            found.push(appendable(about, key, path));
        }
    }
    if let Some(file) = config.location.as_ref().and_then(|location| location.file.as_deref()) {
        // It is written beside its place and renamed.
        found.push(match writable_folder(&folder_of(file)) {
            Ok(()) => Finding::ok("location", format!("{} can be written", file.display())),
            Err(why) => Finding::error(
                "location",
                format!("{} cannot be written: {why}", file.display()),
                "make its folder, and give it to hopfall's user",
            ),
        });
    }
    found
}

fn appendable(about: &str, key: &str, path: &Path) -> Finding {
    let can = match std::fs::metadata(path) {
        Ok(file) if file.is_dir() => Err("it is a folder".to_owned()),
        Ok(_) => access(path, Access::WRITE_OK).map_err(|error| io::Error::from(error).to_string()),
        Err(_) => writable_folder(&folder_of(path)),
    };
    match can {
        Ok(()) => Finding::ok(about, format!("{} can be written", path.display())),
        Err(why) => Finding::error(
            about,
            format!("{} cannot be written: {why}", path.display()),
            format!("make its folder, and give it to hopfall's user, or change `{key}`"),
        ),
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn writable_folder(folder: &Path) -> Result<(), String> {
    match std::fs::metadata(folder) {
        Ok(found) if !found.is_dir() => Err(format!("{} is no folder", folder.display())),
        Ok(_) => access(folder, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| format!("{}: {}", folder.display(), io::Error::from(error))),
        Err(error) => Err(format!("{}: {error}", folder.display())),
    }
}

/// A store's disk: whose its folder is, and whether there is room.
pub(super) fn disk(about: &str, settings: &Settings) -> Vec<Finding> {
    let shown = settings.path.display();
    let claim = match disk::claim(&settings.path) {
        Ok(claim) => claim,
        Err(error) => {
            let what = format!("its disk {shown} cannot be read: {error}");
            return vec![Finding::error(about, what, "give the folder to hopfall's user")];
        }
    };
    if claim == Claim::Foreign {
        let what = format!("its disk {shown} holds files that are not hopfall's, and is not used");
        return vec![Finding::error(about, what, "give `disk.path` an empty folder")];
    }
    // The nearest folder that there is.
    let mut there = settings.path.clone();
    while !there.exists() && there.pop() {}
    if let Err(why) = writable_folder(&there) {
        let what = format!("its disk {shown} cannot be written: {why}");
        return vec![Finding::error(about, what, "give the folder to hopfall's user")];
    }
    let free = match disk::free(&there) {
        Ok(free) => free,
        Err(error) => {
            let what = format!("the file system of its disk {shown} does not say what is free: {error}");
            return vec![Finding::warn(about, what, "use a local file system")];
        }
    };
    let taken = if claim == Claim::Ours && free < settings.bytes + settings.free_floor { taken(&there) } else { 0 };
    vec![room(about, settings, free, taken)]
}

fn room(about: &str, settings: &Settings, free: u64, taken: u64) -> Finding {
    let (shown, size) = (settings.path.display(), |bytes| ByteSize::b(bytes).display().iec().to_string());
    if free + taken <= settings.free_floor {
        return Finding::error(
            about,
            format!(
                "its disk {shown} keeps nothing: {} are free, and `free` is {}",
                size(free),
                size(settings.free_floor)
            ),
            "make room, or lower `disk.free`",
        );
    }
    if free + taken < settings.bytes.saturating_add(settings.free_floor) {
        let most = (free + taken).saturating_sub(settings.free_floor);
        return Finding::warn(
            about,
            format!("its disk {shown} will not grow to {}: there is room for {}", size(settings.bytes), size(most)),
            "make room, or lower `disk.bytes`",
        );
    }
    Finding::ok(about, format!("its disk {shown} has room ({} free)", size(free)))
}

/// Bytes that a disk's files take.
fn taken(root: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let shards = entries(root).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let files = shards.flat_map(|shard| entries(&shard.path()));
    files.filter_map(|file| Some(file.metadata().ok()?.blocks() * 512)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn limits_and_kernels() {
        assert_eq!(open_files(1_000_000, 21_024).level, Level::Ok);
        assert_eq!(open_files(1024, 21_024).level, Level::Warn);
        const KERNELS: &[(&str, Level)] = &[
            ("6.1.0-31-amd64", Level::Warn),
            ("5.15.0", Level::Warn),
            ("6.2.0", Level::Ok),
            ("6.12.48+deb13", Level::Ok),
            ("7.0-rc1", Level::Ok),
            ("", Level::Ok),
        ];
        for (release, level) in KERNELS {
            assert_eq!(kernel(release).level, *level, "{release}");
        }
    }

    #[test]
    fn a_disk_must_have_room_above_its_floor() {
        let settings = Settings {
            path: PathBuf::from("/d"),
            bytes: 100,
            free_floor: 50,
            memory: 0,
            object_max: 10,
            memory_object_max: 0,
        };
        const CASES: &[(u64, u64, Level)] = &[
            (150, 0, Level::Ok),
            (149, 0, Level::Warn),
            (60, 90, Level::Ok),
            (50, 0, Level::Error),
            (40, 20, Level::Warn),
        ];
        for (free, taken, level) in CASES {
            assert_eq!(room("store s", &settings, *free, *taken).level, *level, "{free} {taken}");
        }
    }
}
