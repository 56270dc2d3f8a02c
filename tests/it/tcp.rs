//! Layer 4: streams pass unharmed and unread, and each side learns how the other one ended.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rand::RngCore;
use sha2::{Digest, Sha256};

use crate::support::blackhole::Blackhole;
use crate::support::hopfall::{Hopfall, reserve};
use crate::support::raw::{Ending, Raw, connect, ending, expect, reset};
use crate::support::wait::{PATIENCE, wait_until};

/// hopfall in front of these nodes; `listener` and `pool` are more keys, `name: value, …`.
fn start(nodes: &[SocketAddr], listener: &str, pool: &str) -> Hopfall {
    start_with(nodes, listener, pool, "")
}

fn start_with(nodes: &[SocketAddr], listener: &str, pool: &str, top: &str) -> Hopfall {
    let nodes: Vec<String> =
        nodes.iter().zip('a'..).map(|(address, name)| format!("{{ name: {name}, address: \"{address}\" }}")).collect();
    Hopfall::start(&format!(
        "listeners:\n  - {{ name: raw, address: \"{{addr:raw}}\", protocol: tcp, pool: p, {listener} }}\n\
         pools:\n  p: {{ nodes: [{}], {pool} }}\n\
         admin: {{ address: \"{{admin}}\" }}\n{top}\n",
        nodes.join(", ")
    ))
}

/// A client and the node's end of the same connection.
fn joined(hopfall: &Hopfall, node: &Raw) -> (TcpStream, TcpStream) {
    (connect(hopfall.address("raw")), node.accept())
}

fn open(hopfall: &Hopfall) -> f64 {
    hopfall.metrics().value("hopfall_tcp_connections", &[("listener", "raw")])
}

#[test]
fn a_large_stream_passes_unharmed_both_ways() {
    const SIZE: usize = 64 << 20;
    let node = Raw::greeting("");
    let hopfall = start(&[node], "", "");
    let mut client = connect(hopfall.address("raw"));
    let mut sending = client.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let (mut hash, mut sent) = (Sha256::new(), 0);
        while sent < SIZE {
            // Pieces of all sizes, so that both ways of copying have their turn.
            let length = rand::random_range(1..300_000).min(SIZE - sent);
            let mut piece = vec![0; length];
            rand::rng().fill_bytes(&mut piece);
            hash.update(&piece);
            sending.write_all(&piece).unwrap();
            sent += length;
        }
        sending.shutdown(Shutdown::Write).unwrap();
        hash.finalize()
    });
    let mut hash = Sha256::new();
    let mut piece = vec![0; 64 * 1024];
    let mut received = 0;
    loop {
        let read = client.read(&mut piece).unwrap();
        if read == 0 {
            break;
        }
        hash.update(&piece[..read]);
        received += read;
    }
    assert_eq!(received, SIZE);
    assert_eq!(hash.finalize(), sender.join().unwrap());
    for direction in ["in", "out"] {
        let counted = hopfall.metrics().value("hopfall_tcp_bytes_total", &[("direction", direction)]);
        assert_eq!(counted, SIZE as f64, "{direction}");
    }
    wait_until("the connection is over", PATIENCE, || open(&hopfall) == 0.0);
}

#[test]
fn a_half_close_leaves_the_other_way_open() {
    let node = Raw::listen();
    let hopfall = start(&[node.addr()], "", "");
    let (mut client, mut server) = joined(&hopfall, &node);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ending(&mut server), (b"question".to_vec(), Ending::Orderly));
    server.write_all(b"answer").unwrap();
    expect(&mut client, "answer");
    drop(server);
    assert_eq!(ending(&mut client), (Vec::new(), Ending::Orderly));

    // The same with the node the first to end.
    let (mut client, mut server) = joined(&hopfall, &node);
    server.write_all(b"greeting").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ending(&mut client), (b"greeting".to_vec(), Ending::Orderly));
    client.write_all(b"late").unwrap();
    drop(client);
    assert_eq!(ending(&mut server), (b"late".to_vec(), Ending::Orderly));
    wait_until("both are over", PATIENCE, || open(&hopfall) == 0.0);
}

#[test]
fn the_next_node_is_tried_when_one_takes_no_connection() {
    let (hole, refuses, good) = (Blackhole::open(), reserve(), Raw::greeting("good"));
    let hopfall = start(&[hole.addr(), refuses, good], "", "connect_timeout: 300ms");
    for _ in 0..6 {
        expect(&mut connect(hopfall.address("raw")), "good");
    }
    let metrics = hopfall.metrics();
    let attempts =
        |node: &str, outcome: &str| metrics.value("hopfall_attempts_total", &[("node", node), ("outcome", outcome)]);
    assert_eq!(attempts("c", "found"), 6.0);
    // Passive health takes a node out after three failures.
    for node in ["a", "b"] {
        let down = attempts(node, "down");
        assert!((1.0..=3.0).contains(&down), "{node}: {down}");
    }
    assert_eq!(metrics.value("hopfall_upstream_connects_total", &[("node", "c")]), 6.0);
}

#[test]
fn a_node_that_keeps_failing_is_taken_out() {
    let hopfall = start(&[reserve(), Raw::greeting("good")], "", "");
    for _ in 0..8 {
        expect(&mut connect(hopfall.address("raw")), "good");
    }
    assert_eq!(hopfall.metrics().value("hopfall_node_up", &[("node", "a")]), 0.0);
    assert_eq!(hopfall.metrics().value("hopfall_attempts_total", &[("node", "a"), ("outcome", "down")]), 3.0);
}

#[test]
fn connections_are_shared_among_the_nodes() {
    let (a, b) = (Raw::listen(), Raw::listen());
    let hopfall = start(&[a.addr(), b.addr()], "", "");
    let clients: Vec<_> = (0..10).map(|_| connect(hopfall.address("raw"))).collect();
    let at = |node: &Raw| (0..5).map(|_| node.accept()).collect::<Vec<_>>();
    let servers = (at(&a), at(&b));
    assert_eq!(hopfall.metrics().value("hopfall_node_connections", &[("node", "a")]), 5.0);
    drop((clients, servers));
    wait_until("places are given back", PATIENCE, || {
        hopfall.metrics().sum("hopfall_node_connections", &[("pool", "p")]) == 0.0
    });
}

#[test]
fn without_a_node_the_client_is_reset() {
    let hopfall = start(&[reserve(), reserve()], "", "");
    for _ in 0..3 {
        assert_eq!(ending(&mut connect(hopfall.address("raw"))), (Vec::new(), Ending::Reset));
    }
    hopfall.wait_for_log("raw: no node takes a connection, and clients are reset, 1 so far; the last one, ");
    assert!(hopfall.log().contains(": connection_refused"));
    assert_eq!(hopfall.log().matches("no node takes").count(), 1, "not a line for each");
}

#[test]
fn each_connection_is_a_line_of_the_access_log() {
    let node = Raw::listen();
    let hopfall = start(&[reserve(), node.addr()], "idle_timeout: 1s", "health: { fall: 1000 }");
    for (count, ended) in ["closed", "idle", "broken", "closed"].into_iter().enumerate() {
        let (mut client, mut server) = joined(&hopfall, &node);
        client.write_all(b"hello").unwrap();
        expect(&mut server, "hello");
        server.write_all(b"hi").unwrap();
        expect(&mut client, "hi");
        match ended {
            "closed" => drop((client, server)),
            "idle" => assert_eq!(ending(&mut client).1, Ending::Reset),
            _ => reset(client),
        }
        let line = hopfall.wait_for_access_log(count + 1).pop().unwrap();
        let told = (&line["ended"], &line["received"], &line["bytes"], &line["served_by"], &line["client"]);
        assert_eq!(told, (&ended.into(), &5.into(), &2.into(), &"b".into(), &"127.0.0.1".into()), "{line}");
        assert!(line["seconds"].as_f64().unwrap() >= if ended == "idle" { 1.0 } else { 0.0 }, "{line}");
        let hops = line["hops"].as_str().unwrap().replace(char::is_numeric, "");
        assert!(["b:connected:ms", "a:connection_refused:ms b:connected:ms"].contains(&hops.as_str()), "{line}");
    }
    let lines = hopfall.access_log();
    assert!(lines.iter().any(|line| line["hops"].as_str().unwrap().contains("refused")), "{lines:?}");

    let hopfall = start_with(&[reserve()], "", "", "log: { access: { format: combined } }");
    assert_eq!(ending(&mut connect(hopfall.address("raw"))), (Vec::new(), Ending::Reset));
    wait_until("a line of it", PATIENCE, || {
        let line = hopfall.stdout();
        line.contains("\"CONNECT raw TCP\" 503 0 \"-\" \"-\" \"a:connection_refused:")
    });
}

#[test]
fn a_full_node_is_passed_over_and_blamed_for_nothing() {
    let (a, b) = (Raw::listen(), Raw::listen());
    let hopfall = start(&[a.addr(), b.addr()], "", "max_in_flight: 1, queue: 0");
    let _first = joined(&hopfall, &a);
    let second = joined(&hopfall, &b);
    assert_eq!(ending(&mut connect(hopfall.address("raw"))), (Vec::new(), Ending::Reset));
    assert_eq!(hopfall.metrics().sum("hopfall_attempts_total", &[("outcome", "busy")]), 2.0);
    assert_eq!(hopfall.metrics().sum("hopfall_node_up", &[]), 2.0);
    drop(second);
    wait_until("the place is free", PATIENCE, || {
        hopfall.metrics().value("hopfall_node_connections", &[("node", "b")]) == 0.0
    });
    joined(&hopfall, &b);
}

#[test]
fn silence_ends_both_sides_by_a_reset() {
    let node = Raw::listen();
    let hopfall = start(&[node.addr()], "idle_timeout: 500ms", "");
    let (mut client, mut server) = joined(&hopfall, &node);
    // A byte either way keeps it open beyond the time.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        server.write_all(b".").unwrap();
        expect(&mut client, ".");
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let nothing = client.read(&mut [0]).unwrap_err();
        assert!(matches!(nothing.kind(), std::io::ErrorKind::WouldBlock), "{nothing}");
        client.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    assert_eq!(ending(&mut client), (Vec::new(), Ending::Reset));
    assert_eq!(ending(&mut server), (Vec::new(), Ending::Reset));
}

/// What it was given in one piece it may take for longer than the idle time.
#[test]
fn a_slow_reader_is_not_idle_until_it_stops() {
    let node = Raw::listen();
    let hopfall = start(&[node.addr()], "idle_timeout: 1s", "");
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(&hopfall.address("raw").into()).unwrap();
    let mut client = TcpStream::from(socket);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut server = node.accept();
    let sender = std::thread::spawn(move || server.write_all(&vec![b'x'; 32 << 20]));
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        let read = client.read(&mut [0; 2 << 10]).unwrap();
        assert!(read > 0, "after {:?}", began.elapsed());
        let next = Instant::now() + Duration::from_millis(50);
        wait_until("the next piece's turn", PATIENCE, || Instant::now() >= next);
    }
    let stopped = Instant::now();
    assert!(sender.join().unwrap().is_err(), "the node is reset");
    assert!(stopped.elapsed() > Duration::from_millis(500), "{:?}", stopped.elapsed());
    assert_eq!(ending(&mut client).1, Ending::Reset);
}

#[test]
fn a_reset_is_passed_on() {
    let node = Raw::listen();
    let hopfall = start(&[node.addr()], "", "");

    let (client, mut server) = joined(&hopfall, &node);
    reset(client);
    assert_eq!(ending(&mut server).1, Ending::Reset, "from the client");

    let (mut client, mut server) = joined(&hopfall, &node);
    server.write_all(b"a part").unwrap();
    expect(&mut client, "a part");
    reset(server);
    assert_eq!(ending(&mut client).1, Ending::Reset, "from the node");

    // After a FIN of the same side, when nobody reads from it any more.
    let (client, mut server) = joined(&hopfall, &node);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ending(&mut server), (Vec::new(), Ending::Orderly));
    reset(client);
    wait_until("the node is reset", PATIENCE, || server.write_all(b"x").is_err());
    wait_until("all are over", PATIENCE, || open(&hopfall) == 0.0);
}

#[test]
fn a_stream_that_breaks_off_never_looks_whole() {
    let node = Raw::listen();
    let hopfall = start(&[node.addr()], "", "");
    let (mut client, mut server) = joined(&hopfall, &node);
    let sender = std::thread::spawn(move || {
        // Enough that it goes through a pipe when it breaks.
        server.write_all(&vec![b'x'; 8 << 20]).unwrap();
        reset(server);
    });
    let (read, end) = ending(&mut client);
    sender.join().unwrap();
    assert_eq!(end, Ending::Reset, "after {} bytes", read.len());
}

#[test]
fn a_slow_reader_gets_all() {
    const SIZE: usize = 8 << 20;
    let node = Raw::listen();
    let hopfall = start(&[node.addr()], "", "");
    let (mut client, mut server) = joined(&hopfall, &node);
    let sender = std::thread::spawn(move || server.write_all(&vec![b'x'; SIZE]).unwrap());
    let mut piece = vec![0; 300_000];
    let mut read = 0;
    while read < SIZE {
        let some = client.read(&mut piece).unwrap();
        assert!(some > 0 && piece[..some].iter().all(|byte| *byte == b'x'), "after {read}");
        read += some;
        // A reader that stops now and then until hopfall has nothing left to do.
        if read % 7 == 0 {
            hopfall.metrics();
        }
    }
    assert_eq!(ending(&mut client), (Vec::new(), Ending::Orderly));
    sender.join().unwrap();
}

#[test]
fn a_stream_that_pauses_gives_its_pipe_back_and_goes_on() {
    const SIZE: usize = 4 << 20;
    let node = Raw::listen();
    let hopfall = start(&[node.addr()], "", "");
    let (mut client, server) = joined(&hopfall, &node);
    wait_until("only this connection is open", PATIENCE, || open(&hopfall) == 1.0);
    hopfall.metrics();
    let files = hopfall.open_files();
    for _ in 0..2 {
        let mut sending = server.try_clone().unwrap();
        let sender = std::thread::spawn(move || sending.write_all(&vec![b'x'; SIZE]).unwrap());
        // Nobody reads yet, so it is held up in the middle.
        wait_until("it goes through a pipe", PATIENCE, || hopfall.open_files() > files);
        let mut received = vec![0; SIZE];
        client.read_exact(&mut received).unwrap();
        assert!(received.iter().all(|byte| *byte == b'x'));
        sender.join().unwrap();
        wait_until("the pipe is closed", PATIENCE, || hopfall.open_files() <= files);
    }
    drop(server);
    assert_eq!(ending(&mut client), (Vec::new(), Ending::Orderly));
}

#[test]
fn connections_under_way_outlive_a_drain() {
    let node = Raw::listen();
    let mut hopfall = start(&[node.addr()], "", "");
    let (mut client, mut server) = joined(&hopfall, &node);
    hopfall.signal("TERM");
    wait_until("no new connections", PATIENCE, || TcpStream::connect(hopfall.address("raw")).is_err());
    client.write_all(b"still here").unwrap();
    expect(&mut server, "still here");
    assert!(hopfall.is_running());
    drop((client, server));
    wait_until("it has drained", PATIENCE, || {
        // Those that got in before the listener was closed have a node, too, and it must let them go.
        while node.try_accept().is_some() {}
        !hopfall.is_running()
    });
    assert_eq!(hopfall.wait_exit(PATIENCE), Some(0));
}

#[test]
fn what_the_end_of_the_process_cuts_is_reset() {
    let node = Raw::listen();
    // A drain that takes too long; at once; and none at all.
    for (signal, code) in [("TERM", Some(0)), ("INT", Some(0)), ("KILL", None)] {
        let mut hopfall = start_with(&[node.addr()], "", "", "shutdown_timeout: 300ms");
        let (mut client, mut server) = joined(&hopfall, &node);
        server.write_all(b"a part").unwrap();
        expect(&mut client, "a part");
        hopfall.signal(signal);
        assert_eq!(hopfall.wait_exit(PATIENCE), code, "{signal}");
        assert_eq!(ending(&mut client), (Vec::new(), Ending::Reset), "{signal}");
        assert_eq!(ending(&mut server), (Vec::new(), Ending::Reset), "{signal}");
    }
}

/// At most 8 KiB of resident memory for each idle connection.
#[test]
fn idle_tcp_connections_are_cheap() {
    const COUNT: usize = 200;
    let hopfall = start(&[Raw::greeting("")], "", "max_in_flight: 1000");
    let talk = |client: &mut TcpStream| {
        client.write_all(&[b'x'; 1000]).unwrap();
        client.read_exact(&mut [0; 1000]).unwrap();
    };
    let mut first: Vec<TcpStream> = (0..20).map(|_| connect(hopfall.address("raw"))).collect();
    first.iter_mut().for_each(talk);
    let before = hopfall.rss_kib();
    let mut clients: Vec<TcpStream> = (0..COUNT).map(|_| connect(hopfall.address("raw"))).collect();
    clients.iter_mut().for_each(talk);
    let each = hopfall.rss_kib().saturating_sub(before) as f64 / COUNT as f64;
    println!("{each:.1} KiB per idle tcp connection");
    assert!(each <= 8.0, "{each:.1} KiB per idle tcp connection");
    assert_eq!(open(&hopfall), (COUNT + 20) as f64);
}
