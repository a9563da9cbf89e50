//! Downloads without failures: what lies where, and what is asked for.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::loopback::{COMMIT, Fault, Served};
use super::{Place, bytes, read};
use crate::{Event, HubError, Kind, SelectionFault, list_caches, pull};

fn folder() -> Vec<Served> {
    vec![
        Served::small("config.json", r#"{"model_type": "gpt2"}"#),
        Served::small("tokenizer.json", "{}"),
        Served::small("README.md", "not needed"),
        Served::small("modeling.py", "never fetched"),
        Served::large("model.safetensors", bytes(300_000, 1)),
        Served::large("onnx/model.onnx", bytes(10, 2)),
    ]
}

#[test]
fn a_folder_lies_as_other_tools_lay_it() {
    let place = Place::new(folder());
    let (mut events, mut received) = (Vec::new(), Vec::new());
    let cache = place.caches().hugging_face;
    let name = "hf:owner/name".parse().unwrap();
    let pulled = pull(&place.client(), &cache, &name, &AtomicBool::new(false), &mut |event| {
        events.push(format!("{event:?}"));
        if let Event::Received { bytes } = event {
            received.push(bytes);
        }
    })
    .unwrap();
    assert!(received.is_sorted() && received.last() == Some(&pulled.bytes), "{received:?} of {}", pulled.bytes);
    assert_eq!((pulled.files, pulled.commit.as_str()), (3, COMMIT));
    assert_eq!(pulled.path, place.repository().join("snapshots").join(COMMIT));
    assert_eq!(place.find("hf:owner/name").unwrap(), pulled.path);
    assert_eq!(read(place.reference()), COMMIT.as_bytes());
    for file in folder() {
        let is_wanted = ["config.json", "tokenizer.json", "model.safetensors"].contains(&file.name.as_str());
        assert_eq!(place.link(&file.name).exists(), is_wanted, "{}", file.name);
        if is_wanted {
            assert_eq!(read(place.link(&file.name)), file.content);
            #[cfg(unix)]
            assert_eq!(fs::read_link(place.link(&file.name)).unwrap(), Path::new("../../blobs").join(&file.etag));
        }
    }
    let names = fs::read_dir(place.repository().join("blobs")).unwrap();
    assert!(names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).all(|name| !name.contains('.')));
    assert!(events.iter().any(|event| event.starts_with("Planned") && event.contains("files: 3")), "{events:?}");
    assert!(events.last().unwrap().starts_with("Completed"), "{events:?}");

    // The token went to the hub, and to nobody else.
    let seen = place.hub.seen();
    assert!(seen.iter().any(|seen| seen.is_second));
    for request in seen {
        let expected = if request.is_second { None } else { Some("Bearer secret") };
        assert_eq!(request.token.as_deref(), expected, "{request:?}");
    }

    // A second time nothing is downloaded.
    let again = pull(&place.client(), &cache, &name, &AtomicBool::new(false), &mut |event| match event {
        Event::Planned { bytes, present, .. } => assert_eq!((bytes, present), (pulled.bytes, pulled.bytes)),
        Event::Received { bytes } => assert_eq!(bytes, pulled.bytes),
        _ => {}
    });
    assert_eq!(again.unwrap(), pulled);
    let seen = place.hub.seen();
    assert!(seen.iter().all(|seen| seen.method == "HEAD" || seen.path.starts_with("/api/")), "{seen:?}");
}

#[test]
fn shards_are_those_of_the_index() {
    let index = r#"{"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let mut files = vec![
        Served::small("config.json", "{}"),
        Served::small("model.safetensors.index.json", index),
        Served::large("model-1.safetensors", bytes(1000, 1)),
        Served::large("other.safetensors", bytes(1000, 3)),
        Served::large("model-2.safetensors", bytes(0, 2)),
    ];
    let place = Place::new(files.clone());
    let pulled = place.pull("hf:owner/name").unwrap();
    assert_eq!((pulled.files, pulled.bytes), (4, 1000 + 2 + index.len() as u64));
    assert_eq!(read(pulled.path.join("model-1.safetensors")), files[2].content);
    assert_eq!(read(pulled.path.join("model-2.safetensors")), b"");
    assert!(!pulled.path.join("other.safetensors").exists());
    // Without one of them the model is incomplete.
    fs::remove_file(pulled.path.join("model-2.safetensors")).unwrap();
    let error = place.find("hf:owner/name").unwrap_err();
    assert!(matches!(&error, HubError::Incomplete { missing, .. } if missing == "model-2.safetensors"), "{error}");
    let listed = list_caches(&place.caches()).unwrap().models;
    assert_eq!(listed[0].missing.as_deref(), Some("model-2.safetensors"));

    for name in ["model-3.safetensors", "../model-1.safetensors", "/etc/passwd", "run.py"] {
        files[1] = Served::small("model.safetensors.index.json", format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#));
        let place = Place::new(files.clone());
        let error = place.pull("hf:owner/name").unwrap_err();
        assert!(matches!(error, HubError::Selection { .. } | HubError::Answer { .. }), "{name}: {error}");
        place.assert_absent(&files[2]);
    }
}

#[test]
fn gguf_files_are_chosen_by_format() {
    let files = vec![
        Served::large("m-Q4_K_M.gguf", bytes(100, 1)),
        Served::large("m-Q8_0.gguf", bytes(200, 2)),
        Served::large("BF16/m-BF16-00001-of-00002.gguf", bytes(300, 3)),
        Served::large("BF16/m-BF16-00002-of-00002.gguf", bytes(400, 4)),
    ];
    let place = Place::new(files.clone());
    for (name, file, bytes) in [
        ("hf:owner/name", 0, 100),
        ("hf:owner/name:q8_0", 1, 200),
        ("hf:owner/name:m-Q8_0.gguf", 1, 200),
        ("hf:owner/name:bf16", 2, 700),
    ] {
        let pulled = place.pull(name).unwrap();
        assert_eq!((&pulled.path, pulled.bytes), (&place.link(&files[file].name), bytes), "{name}");
        assert_eq!(place.find(name).unwrap(), pulled.path);
        assert_eq!(read(&pulled.path), files[file].content);
    }
    #[cfg(unix)]
    {
        let target = Path::new("../../../blobs").join(&files[2].etag);
        assert_eq!(fs::read_link(place.link(&files[2].name)).unwrap(), target);
    }
    let error = place.pull("hf:owner/name:Q5_0").unwrap_err();
    assert!(matches!(&error, HubError::Selection { fault: SelectionFault::NoSuch(..), .. }), "{error}");
    assert!(error.to_string().contains("m-Q8_0.gguf"), "{error}");

    let listed = list_caches(&place.caches()).unwrap();
    let names: Vec<_> = listed.models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(names, ["hf:owner/name:BF16", "hf:owner/name:Q4_K_M", "hf:owner/name:Q8_0"]);
    assert_eq!(listed.models[0].bytes, 700);
    assert_eq!(listed.models[2].kind, Kind::Gguf(Some("Q8_0".to_owned())));
    for model in &listed.models {
        assert_eq!(place.find(&model.name).unwrap(), model.path);
    }
}

#[test]
fn revisions_have_references_of_their_own() {
    let place = Place::new(folder());
    place.pull("hf:owner/name@refs/pr/1").unwrap();
    assert_eq!(read(place.repository().join("refs/refs/pr/1")), COMMIT.as_bytes());
    assert!(place.hub.seen()[0].path.ends_with("/revision/refs%2Fpr%2F1"));
    assert!(place.find("hf:owner/name").is_err(), "main was not downloaded");
    place.find("hf:owner/name@refs/pr/1").unwrap();
    place.find(&format!("hf:owner/name@{COMMIT}")).unwrap();
    place.pull(&format!("hf:owner/name@{COMMIT}")).unwrap();
    assert!(!place.repository().join("refs").join(COMMIT).exists());
    let listed = list_caches(&place.caches()).unwrap().models;
    assert_eq!(listed[0].name, "hf:owner/name@refs/pr/1");
}

#[test]
fn names_with_unusual_characters_are_asked_for() {
    let files = vec![Served::large("sub dir/m#1 ü%.gguf", bytes(10, 1))];
    let place = Place::new(files);
    let error = place.pull("hf:owner/name").unwrap_err();
    // This server does not decode paths; the request shows that they are encoded.
    assert!(matches!(error, HubError::NotFound { .. }), "{error}");
    let seen = place.hub.seen();
    assert!(seen[1].path.ends_with("/sub%20dir/m%231%20%C3%BC%25.gguf"), "{seen:?}");
}

#[test]
fn two_downloads_at_once_ask_once() {
    let file = Served::large("m.gguf", bytes(600_000, 1));
    let mut place = Place::new(vec![file.clone()]);
    place.patience.stall = std::time::Duration::from_secs(10);
    place.hub.misbehave(|seen| seen.is_second.then(|| Fault::Slow(60_000, std::time::Duration::from_millis(30))));
    let waited = std::thread::scope(|scope| {
        let pull_it = || {
            let mut waited = false;
            let cache = place.caches().hugging_face;
            let name = "hf:owner/name".parse().unwrap();
            let pulled = pull(&place.client(), &cache, &name, &AtomicBool::new(false), &mut |event| {
                waited |= matches!(event, Event::Waiting { .. });
            });
            (pulled.unwrap(), waited)
        };
        let (first, second) = (scope.spawn(pull_it), scope.spawn(pull_it));
        let (first, second) = (first.join().unwrap(), second.join().unwrap());
        assert_eq!(first.0, second.0);
        first.1 || second.1
    });
    assert!(waited);
    assert_eq!(place.hub.seen().iter().filter(|seen| seen.is_second).count(), 1);
    assert_eq!(read(place.find("hf:owner/name").unwrap()), file.content);
}

#[test]
fn models_of_llama_cpps_own_cache_are_found() {
    let place = Place::new(vec![]);
    let cache = place.caches().llama_cpp;
    fs::create_dir_all(&cache).unwrap();
    for name in [
        "o_n_m-Q4_K_M.gguf",
        "o_n_m-Q8_0.gguf",
        "manifest=o=n=latest.json",
        "x_y_z.gguf",
        "o_n_w.gguf.downloadInProgress",
    ] {
        fs::write(cache.join(name), b"1234").unwrap();
    }
    assert_eq!(place.find("hf:o/n").unwrap(), cache.join("o_n_m-Q4_K_M.gguf"));
    assert_eq!(place.find("hf:o/n:Q8_0").unwrap(), cache.join("o_n_m-Q8_0.gguf"));
    assert_eq!(place.find("hf:o/n:m-Q8_0.gguf").unwrap(), cache.join("o_n_m-Q8_0.gguf"));
    assert!(matches!(place.find("hf:o/n:Q6_K"), Err(HubError::Absent { .. })));
    assert!(matches!(place.find("hf:o/n@v2"), Err(HubError::Absent { .. })));
    let listed = list_caches(&place.caches()).unwrap();
    let names: Vec<_> = listed.models.iter().map(|model| model.name.clone()).collect();
    let other = cache.join("x_y_z.gguf").display().to_string();
    assert_eq!(names, [other, "hf:o/n:m-Q4_K_M.gguf".to_owned(), "hf:o/n:m-Q8_0.gguf".to_owned()]);
    assert_eq!(listed.unfinished.len(), 1);
}
