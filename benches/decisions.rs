//! What the decisions of one request cost, each alone: `cargo bench --bench decisions`.
//!
//! These are parts of the CPU time that `bench/run` measures whole, and tell whether a part is worth work.
//! CONTRIBUTING.md has the last numbers.

// A benchmark that meets the impossible has failed.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use criterion::{Criterion, criterion_group, criterion_main};
use hopfall::access_log::{AccessLog, Entry};
use hopfall::config::{Access, AccessFormat, Config, Destination, Facility, Output, Surroundings};
use hopfall::fallback::{Kind, Outcome, Plan, Repeat, Search, Stage, Step, Verdict, node_outcome};
use hopfall::hop::{TargetId, Visited};
use hopfall::location::{Map, Mark, PathId, UnixTime};
use hopfall::metrics::Metrics;
use hopfall::pool::{Asker, Pool};
use hopfall::s3::key;
use hopfall::s3::sign::Signer;
use hopfall::trip::{Attempt, Trip};
use hopfall::units::StatusSet;
use hopfall::via::Identity;
use http::Method;
use prometheus::IntCounter;

criterion_group! {
    name = decisions;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = fallback, pick, location, s3, access_log
}
criterion_main!(decisions);

/// A whole walk: three nodes say 404, the store has the file.
fn fallback(criterion: &mut Criterion) {
    let store = TargetId(3);
    let plan = Plan { stages: vec![Stage::Pool(0), Stage::Store(store)], attempts: 0 };
    let leads_on: StatusSet = [404, 429, 500, 502, 503, 504].into_iter().collect();
    let walk = |found: u16| {
        let mut search = Search::new(&plan, Repeat::Safe);
        let pick = |_: usize, visited: &Visited| (0..3).map(TargetId).find(|node| !visited.contains(*node));
        while let Step::Try(target) = search.next(false, pick) {
            let verdict = if target == store {
                search.judge(Kind::Store, Outcome::Found(found))
            } else {
                search.judge(Kind::Node, node_outcome(black_box(404), &leads_on))
            };
            if verdict == Verdict::Serve {
                break;
            }
        }
        search.attempts()
    };
    assert_eq!(walk(200), 4);
    criterion.bench_function("fallback: 404 from 3 nodes, then a store", |b| b.iter(|| walk(black_box(200))));
}

fn pick(criterion: &mut Criterion) {
    let metrics = Metrics::new().unwrap();
    let paths: Vec<Vec<u8>> = (0..1000).map(path).collect();
    for algorithm in ["roundrobin", "leastconn", "source", "hash"] {
        let yaml = format!(
            "
            listeners: [{{ name: web, address: \"127.0.0.1:0\", route: images }}]
            pools:
              images:
                algorithm: {algorithm}
                nodes:
                  - {{ name: a, address: \"10.0.0.1:80\", weight: 5 }}
                  - {{ name: b, address: \"10.0.0.2:80\" }}
                  - {{ name: c, address: \"10.0.0.3:80\" }}
            routes: {{ images: {{ chain: [images] }} }}
            "
        );
        let surroundings = Surroundings { variable: &|_| None, read: &|_| Err(ErrorKind::NotFound.into()) };
        let config = Config::parse("bench", &yaml, &surroundings).unwrap();
        let pool = Pool::new(&config.pools[0], &Identity::new("hopfall", b"key"), &metrics, None);
        let (nobody, mut paths) = (Visited::default(), paths.iter().cycle());
        criterion.bench_function(&format!("pick: {algorithm}, 3 nodes"), |b| {
            b.iter(|| {
                let asker = Asker { path: paths.next().unwrap(), client: Ipv4Addr::LOCALHOST.into(), fields: None };
                pool.pick(&nobody, Duration::ZERO, &asker, |_| Mark::Unknown).unwrap().target
            });
        });
    }
}

/// A full map of a million entries, 16 MiB, asked all over.
fn location(criterion: &mut Criterion) {
    const NOW: UnixTime = 1_800_000_000;
    let map = Map::new(1_000_000, 3600, 30, 0, (1, 2));
    let id = |i| map.path("images", b"images.example.com", &path(i));
    let known: Vec<PathId> = (0..1_000_000).map(id).collect();
    for id in &known {
        map.learn(*id, TargetId(0), true, NOW);
    }
    let (target, now) = (path(0), NOW + 60);
    let is_known = |id: &PathId| map.look(*id, &target, now).is_some();
    let hits: Vec<PathId> = known.into_iter().filter(is_known).collect();
    let misses: Vec<PathId> = (1_000_000..2_000_000).map(id).filter(|id| !is_known(id)).collect();
    for (name, ids) in [("hit", &hits), ("miss", &misses)] {
        let mut ids = ids.iter().cycle();
        criterion.bench_function(&format!("location: look, a {name}"), |b| {
            b.iter(|| map.look(*ids.next().unwrap(), &target, now));
        });
    }
    let mut ids = hits.iter().cycle();
    criterion.bench_function("location: learn", |b| {
        b.iter(|| map.learn(*ids.next().unwrap(), TargetId(1), black_box(false), now));
    });
    criterion.bench_function("location: a path's number", |b| {
        b.iter(|| map.path("images", b"images.example.com", black_box(&target)));
    });
}

fn s3(criterion: &mut Criterion) {
    criterion.bench_function("s3: a path to its key, and encoded", |b| {
        let path = b"/img/2026/11/cat%20no%20123.jpg?v=2";
        b.iter(|| key::encode(&key::object_key("public/", black_box(path)).unwrap()));
    });
    let credentials = Credentials::new("AKIAEXAMPLE", "wJalrXUtnFEMIexample", None, None, "bench");
    let signer = Signer::new(&credentials, "us-east-1", "awwni-cdn.s3.us-east-1.amazonaws.com");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    criterion.bench_function("s3: sign", |b| {
        b.iter(|| signer.headers(&Method::GET, black_box("/public/img/2026/11/cat%20no%20123.jpg"), time).unwrap());
    });
    criterion.bench_function("s3: sign, the key of the day alone", |b| {
        b.iter(|| {
            let key =
                aws_sigv4::sign::v4::generate_signing_key("wJalrXUtnFEMIexample", time, black_box("us-east-1"), "s3");
            black_box(key.as_ref()[0])
        });
    });
}

/// What a request pays for its line; the thread that writes it is not counted.
fn access_log(criterion: &mut Criterion) {
    let surroundings = Surroundings { variable: &|_| None, read: &|_| Err(ErrorKind::NotFound.into()) };
    let attempt = |target: &str, outcome| Attempt {
        target: target.into(),
        pool: "images".into(),
        outcome,
        began: Duration::ZERO,
        took: Duration::from_micros(700),
        span: 0,
    };
    let trip = Trip {
        attempts: vec![attempt("taiga", Outcome::Absent(404)), attempt("chitoge", Outcome::Found(200))],
        served_by: Some("chitoge".into()),
        sent: 40_960,
        ..Trip::default()
    };
    let entry = Entry {
        time: SystemTime::now(),
        took: Duration::from_micros(1500),
        listener: "web",
        client: Ipv4Addr::new(198, 51, 100, 7).into(),
        method: "GET",
        target: b"/img/2026/11/cat-in-a-box.jpg",
        protocol: "HTTP/1.1",
        host: b"images.example.com",
        referer: b"https://www.example.com/cats/",
        user_agent: b"Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
        status: 200,
        trip: &trip,
    };
    for (name, format, one_in) in [
        ("json", AccessFormat::Json, 1),
        ("combined", AccessFormat::Combined, 1),
        ("left out by sampling", AccessFormat::Json, 1_000_000),
        ("off", AccessFormat::Off, 1),
    ] {
        let mut config = Config::parse("bench", include_str!("../conf/minimal.yaml"), &surroundings).unwrap();
        config.log.access = Access {
            format,
            output: Output { to: Destination::File("/dev/null".into()), facility: Facility::Local0 },
            sample_one_in: NonZeroU32::new(one_in).unwrap(),
        };
        let log = AccessLog::open(&config.log, IntCounter::new("dropped", "dropped").unwrap()).unwrap();
        criterion.bench_function(&format!("access log: {name}"), |b| b.iter(|| log.write(black_box(&entry))));
    }
}

fn path(i: u32) -> Vec<u8> {
    format!("/img/2026/{i:07}.jpg").into_bytes()
}
