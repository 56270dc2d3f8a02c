//! Any sequence of calls against a model.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, length: usize },
    Abort { key: u8, length: usize },
    Get(u8),
    Refresh(u8),
    Remove(u8),
    RemovePrefix(u8),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![0usize..300, 60_000usize..140_000, 0usize..700_000];
    prop_oneof![
        8 => (any::<u8>(), length.clone()).prop_map(|(key, length)| Step::Put { key: key % 24, length }),
        1 => (any::<u8>(), length).prop_map(|(key, length)| Step::Abort { key: key % 24, length }),
        8 => any::<u8>().prop_map(|key| Step::Get(key % 24)),
        2 => any::<u8>().prop_map(|key| Step::Refresh(key % 24)),
        2 => any::<u8>().prop_map(|key| Step::Remove(key % 24)),
        1 => any::<u8>().prop_map(|key| Step::RemovePrefix(key % 3)),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn what_is_read_is_what_was_written_or_nothing(steps in proptest::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(follow(steps));
    }
}

async fn follow(steps: Vec<Step>) {
    let folder = TempDir::new().unwrap();
    let budget = FOLDERS + 3 * MIB;
    let settings =
        Settings { bytes: budget, memory: 100 * KIB, memory_object_max: 10 * KIB, ..settings(folder.path()) };
    let mut disk = open(&settings).await;
    // Per key: what was last written and the metadata that was last set.
    let mut model: HashMap<String, (Vec<u8>, String)> = HashMap::new();
    let named = |key: u8| format!("/{}/{key}", key % 3);
    for (turn, step) in steps.into_iter().enumerate() {
        let etag = turn.to_string();
        match step {
            Step::Put { key, length } => {
                let (key, body) = (named(key), body(turn as u64, length));
                if let Some(put) = try_put(&disk, &key, &etag, &body).await {
                    put.unwrap();
                    model.insert(key, (body, etag));
                }
            }
            Step::Abort { key, length } => {
                if let Some(mut writer) = disk.begin(&named(key), &meta("none"), length as u64 + 1).await {
                    writer.write(&body(turn as u64, length)).await.unwrap();
                }
            }
            Step::Get(key) => {
                let key = named(key);
                if let Some(object) = disk.get(&key).await {
                    let (body, etag) = &model[&key];
                    assert!(read(&object).await.unwrap() == *body, "{key}");
                    assert_eq!(object.meta().field("etag"), Some(etag.as_bytes()));
                }
            }
            Step::Refresh(key) => {
                let key = named(key);
                if disk.refresh(&key, &meta(&etag)).await {
                    model.get_mut(&key).unwrap().1 = etag;
                }
            }
            Step::Remove(key) => {
                let key = named(key);
                disk.remove(&key).await.unwrap();
                model.remove(&key);
                assert!(disk.get(&key).await.is_none());
            }
            Step::RemovePrefix(prefix) => {
                let prefix = format!("/{prefix}/");
                disk.remove_prefix(&prefix).await.unwrap();
                model.retain(|key, _| !key.starts_with(&prefix));
            }
            Step::Restart => disk = reopen(disk).await,
        }
        let figures = disk.figures();
        assert!(figures.disk_bytes <= budget && figures.memory_bytes <= 100 * KIB, "{figures:?}");
        assert!(FOLDERS + taken(folder.path()) <= budget);
        assert_eq!((figures.corrupt, figures.read_errors, figures.write_errors), (0, 0, 0));
        for key in (0..24).map(named).filter(|key| !model.contains_key(key)) {
            assert!(disk.get(&key).await.is_none(), "{key}");
        }
    }
}
