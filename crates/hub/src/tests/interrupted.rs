//! Downloads that are interrupted, and what is left for the next one.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::loopback::{Fault, Seen, Served};
use super::{Place, Random, bytes, read};
use crate::{Event, HubError, list_caches, pull};

/// The first `count` requests of a kind go wrong.
fn first(count: usize, is_it: fn(&Seen) -> bool, fault: Fault) -> impl FnMut(&Seen) -> Option<Fault> + Send {
    let mut left = count;
    move |seen| {
        let hit = left > 0 && is_it(seen);
        left -= usize::from(hit);
        hit.then(|| fault.clone())
    }
}

#[test]
fn a_file_is_whole_after_a_hundred_interruptions() {
    let file = Served::large("m.gguf", bytes(3 << 20, 1));
    let mut place = Place::new(vec![file.clone()]);
    place.patience.attempts = 1;
    let mut random = Random(7);
    let incomplete = place.blob(&format!("{}.incomplete", file.etag));
    let mut arrived = 0;
    for interruption in 0..100 {
        // Mostly the content is cut; sometimes an answer before it.
        let which = random.below(10);
        let bytes = random.below(40_000);
        place.hub.misbehave(move |seen| match which {
            0 => seen.path.starts_with("/api/").then_some(Fault::Cut(bytes % 50)),
            1 => (seen.method == "HEAD").then_some(Fault::Raw(b"HTTP/1.1 302 Fou".to_vec())),
            2 => (seen.method == "GET" && !seen.path.starts_with("/api/") && !seen.is_second)
                .then_some(Fault::Raw(vec![])),
            _ => seen.is_second.then_some(Fault::Cut(bytes)),
        });
        let error = place.pull("hf:owner/name").unwrap_err();
        assert!(matches!(error, HubError::Request { .. }), "{interruption}: {error}");
        place.assert_absent(&file);
        let there = fs::read(&incomplete).unwrap_or_default();
        assert!(there.len() >= arrived && file.content.starts_with(&there), "{interruption}: what arrived stays");
        assert!(which < 3 || there.len() == arrived + bytes, "{interruption}: {} of {bytes}", there.len() - arrived);
        arrived = there.len();
    }
    assert!(arrived > 1 << 20 && arrived < file.content.len());
    assert_eq!(list_caches(&place.caches()).unwrap().unfinished[0].bytes, arrived as u64);
    place.hub.misbehave(|_| None);
    place.hub.seen();
    let pulled = place.pull("hf:owner/name").unwrap();
    assert_eq!(read(pulled.path), file.content);
    assert!(!incomplete.exists());
    let ranges: Vec<_> = place.hub.seen().into_iter().filter_map(|seen| seen.range).collect();
    assert_eq!(ranges, vec![format!("bytes={arrived}-"); 2], "the hub, and where it redirects to");
    assert_eq!(list_caches(&place.caches()).unwrap().unfinished, vec![]);
}

#[test]
fn one_download_survives_interruptions_with_progress() {
    let file = Served::large("m.gguf", bytes(2 << 20, 1));
    let place = Place::new(vec![file.clone()]);
    let mut random = Random(3);
    place.hub.misbehave(move |seen| seen.is_second.then(|| Fault::Cut((64 << 10) + random.below(200_000))));
    let pulled = place.pull("hf:owner/name").unwrap();
    assert_eq!(read(pulled.path), file.content);
    assert!(place.hub.seen().iter().filter(|seen| seen.is_second).count() > 5);
}

#[test]
fn a_download_without_progress_is_given_up() {
    let file = Served::large("m.gguf", bytes(100_000, 1));
    let place = Place::new(vec![file.clone()]);
    place.hub.misbehave(|seen| seen.is_second.then_some(Fault::Cut(100)));
    let error = place.pull("hf:owner/name").unwrap_err().to_string();
    assert!(error.contains("2 times") && !error.contains("signature"), "{error}");
    place.assert_absent(&file);
}

#[test]
fn what_an_earlier_download_has_left_is_checked() {
    let file = Served::large("m.gguf", bytes(100_000, 1));
    for left in [bytes(50_000, 9), bytes(100_000, 9), bytes(200_000, 9)] {
        let place = Place::new(vec![file.clone()]);
        fs::create_dir_all(place.repository().join("blobs")).unwrap();
        fs::write(place.blob(&format!("{}.incomplete", file.etag)), left).unwrap();
        assert_eq!(read(place.pull("hf:owner/name").unwrap().path), file.content);
    }
    // A content that is complete, but has no name yet, needs no request.
    let place = Place::new(vec![file.clone()]);
    fs::create_dir_all(place.repository().join("blobs")).unwrap();
    fs::write(place.blob(&format!("{}.incomplete", file.etag)), &file.content).unwrap();
    assert_eq!(read(place.pull("hf:owner/name").unwrap().path), file.content);
    assert!(place.hub.seen().iter().all(|seen| !seen.is_second));
    // A content of another length is damaged.
    let place = Place::new(vec![file.clone()]);
    fs::create_dir_all(place.repository().join("blobs")).unwrap();
    fs::write(place.blob(&file.etag), b"short").unwrap();
    assert_eq!(read(place.pull("hf:owner/name").unwrap().path), file.content);
}

#[test]
fn a_content_that_is_there_is_checked_when_it_is_pulled_again() {
    let (small, large) = (Served::small("config.json", "{}"), Served::large("model.safetensors", bytes(100_000, 1)));
    let place = Place::new(vec![small.clone(), large.clone()]);
    let pull = || {
        let (mut checked, mut damaged, mut received) = (vec![], vec![], vec![]);
        let (cache, name) = (place.caches().hugging_face, "hf:owner/name".parse().unwrap());
        let pulled = pull(&place.client(), &cache, &name, &AtomicBool::new(false), &mut |event| match event {
            Event::Checking { file, .. } => checked.push(file.to_owned()),
            Event::Damaged { file } => damaged.push(file.to_owned()),
            Event::Received { bytes } => received.push(bytes),
            _ => {}
        });
        assert_eq!(received.last(), Some(&100_002));
        assert!(received.is_sorted(), "{received:?}");
        (pulled.unwrap(), damaged, checked)
    };
    let first = pull();
    assert_eq!((first.1, first.2), (vec![], vec![]));
    place.hub.seen();
    let again = pull();
    assert_eq!((again.1, again.2.join(" ")), (vec![], "config.json model.safetensors".to_owned()));
    assert!(place.hub.seen().iter().all(|seen| !seen.is_second), "nothing is downloaded twice");
    for file in [&small, &large] {
        let mut content = file.content.clone();
        content[1] ^= 1;
        fs::write(place.blob(&file.etag), content).unwrap();
        let (pulled, damaged, _) = pull();
        assert_eq!(damaged.join(" "), file.name);
        assert_eq!(read(pulled.path.join(&file.name)), file.content);
    }
}

#[test]
fn servers_that_know_no_ranges_send_all_again() {
    let file = Served::large("m.gguf", bytes(100_000, 1));
    let whole = |file: &Served| {
        let header = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", file.content.len());
        Fault::Raw([header.as_bytes(), &file.content].concat())
    };
    let other = Fault::Raw(b"HTTP/1.1 206 x\r\nContent-Range: bytes 0-9/100000\r\nContent-Length: 10\r\nConnection: close\r\n\r\n0123456789".to_vec());
    for fault in [whole(&file), other, Fault::status(416, "")] {
        let place = Place::new(vec![file.clone()]);
        fs::create_dir_all(place.repository().join("blobs")).unwrap();
        fs::write(place.blob(&format!("{}.incomplete", file.etag)), &file.content[..5000]).unwrap();
        place.hub.misbehave(first(1, |seen| seen.is_second, fault));
        assert_eq!(read(place.pull("hf:owner/name").unwrap().path), file.content);
    }
}

/// A server that sends all again once, and parts afterwards, over a connection that breaks every time.
#[test]
fn what_arrives_after_one_restart_is_progress() {
    let file = Served::large("m.gguf", bytes(500_000, 1));
    let place = Place::new(vec![file.clone()]);
    fs::create_dir_all(place.repository().join("blobs")).unwrap();
    fs::write(place.blob(&format!("{}.incomplete", file.etag)), &file.content[..400_000]).unwrap();
    let header = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", file.content.len());
    let mut whole = Some(Fault::Raw([header.as_bytes(), &file.content[..1000]].concat()));
    place.hub.misbehave(move |seen| seen.is_second.then(|| whole.take().unwrap_or(Fault::Cut(70_000))));
    assert_eq!(read(place.pull("hf:owner/name").unwrap().path), file.content);
}

#[test]
fn passing_failures_are_tried_again() {
    let file = Served::large("m.gguf", bytes(1000, 1));
    let is_any: fn(&Seen) -> bool = |_| true;
    let is_head: fn(&Seen) -> bool = |seen| seen.method == "HEAD";
    let is_second: fn(&Seen) -> bool = |seen| seen.is_second;
    for status in [408, 429, 500, 502, 503, 504] {
        for is_it in [is_any, is_head, is_second] {
            let place = Place::new(vec![file.clone()]);
            place.hub.misbehave(first(1, is_it, Fault::status(status, "")));
            place.pull("hf:owner/name").unwrap();
        }
    }
    let place = Place::new(vec![file.clone()]);
    place.hub.misbehave(first(1, is_any, Fault::status(429, "Retry-After: 1\r\n")));
    let start = Instant::now();
    place.pull("hf:owner/name").unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    place.hub.misbehave(first(1, is_any, Fault::status(429, "Retry-After: 3600\r\n")));
    let error = place.pull("hf:owner/name").unwrap_err().to_string();
    assert!(error.contains("3600 s"), "{error}");
    place.hub.misbehave(|_| Some(Fault::status(503, "")));
    let error = place.pull("hf:owner/name").unwrap_err().to_string();
    assert!(error.contains("HTTP 503, 2 times"), "{error}");
}

#[test]
fn a_download_stops_at_once_and_goes_on_later() {
    let file = Served::large("m.gguf", bytes(1 << 20, 1));
    let mut place = Place::new(vec![file.clone()]);
    place.patience.answer = Duration::from_secs(60);
    place.patience.stall = Duration::from_secs(60);
    let is_second: fn(&Seen) -> bool = |seen| seen.is_second;
    let is_any: fn(&Seen) -> bool = |_| true;
    let slow = Fault::Slow(100_000, Duration::from_millis(50));
    for (is_it, fault) in [(is_any, Fault::Silent), (is_second, Fault::Silent), (is_second, slow)] {
        place.hub.misbehave(first(usize::MAX, is_it, fault));
        let stop = AtomicBool::new(false);
        let stopped = std::thread::scope(|scope| {
            let pulled = scope.spawn(|| (place.pull_until("hf:owner/name", &stop), Instant::now()));
            std::thread::sleep(Duration::from_millis(250));
            stop.store(true, Ordering::SeqCst);
            let asked = Instant::now();
            let (result, end) = pulled.join().unwrap();
            assert!(matches!(result, Err(HubError::Stopped)), "{result:?}");
            end.saturating_duration_since(asked)
        });
        assert!(stopped < Duration::from_millis(500), "{stopped:?}");
        place.assert_absent(&file);
    }
    let left = fs::metadata(place.blob(&format!("{}.incomplete", file.etag))).unwrap().len();
    assert!(left >= 100_000);
    place.hub.misbehave(|_| None);
    assert_eq!(read(place.pull("hf:owner/name").unwrap().path), file.content);
}

/// Other tools remove their lock files when they are done with them.
#[cfg(unix)]
#[test]
fn a_lock_whose_file_was_removed_does_not_count() {
    let file = Served::large("m.gguf", bytes(1000, 1));
    let place = Place::new(vec![file.clone()]);
    let lock = place.caches().hugging_face.join(".locks/models--owner--name").join(format!("{}.lock", file.etag));
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let held = fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let pulled = scope.spawn(|| {
            place.pull("hf:owner/name").unwrap();
            done.store(1, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(done.load(Ordering::SeqCst), 0, "the lock is held");
        fs::remove_file(&lock).unwrap();
        drop(held);
        pulled.join().unwrap();
    });
    assert!(lock.exists());
}
