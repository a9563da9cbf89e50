//! Hubs that lie, and hubs that never end.

use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::loopback::{COMMIT, Fault, REPOSITORY, Seen, Served};
use super::{Place, bytes};
use crate::HubError;

#[test]
fn a_wrong_content_is_refused() {
    for make in [Served::large, Served::small] as [fn(&str, Vec<u8>) -> Served; 2] {
        let mut file = make("m.gguf", bytes(100_000, 1));
        file.content[77_777] ^= 1;
        let place = Place::new(vec![file.clone()]);
        let error = place.pull("hf:owner/name").unwrap_err();
        assert!(matches!(&error, HubError::Damaged { file, .. } if file == "m.gguf"), "{error}");
        assert!(error.to_string().contains(&file.etag), "{error}");
        place.assert_absent(&file);
        assert!(!place.blob(&format!("{}.incomplete", file.etag)).exists(), "the next download begins anew");
    }
}

#[test]
fn a_wrong_length_is_refused() {
    let right = Served::large("m.gguf", bytes(100_000, 1));
    let unsized_answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let longer = Fault::Raw([&unsized_answer[..], &bytes(100_001, 1)].concat());
    let shorter = Fault::Raw([&unsized_answer[..], &bytes(99_999, 1)].concat());
    for (announced, fault) in [(99_999, None), (100_001, None), (100_000, Some(longer)), (100_000, Some(shorter))] {
        let file = Served { size: announced, ..right.clone() };
        let place = Place::new(vec![file.clone()]);
        place.hub.misbehave(move |seen| fault.clone().filter(|_| seen.is_second));
        let error = place.pull("hf:owner/name").unwrap_err();
        let is_expected = matches!(error, HubError::Damaged { .. } | HubError::Request { .. });
        assert!(is_expected, "{announced}: {error}");
        place.assert_absent(&file);
    }
}

#[test]
fn a_file_that_does_not_fit_is_not_begun() {
    let file = Served { size: 1 << 60, ..Served::large("m.gguf", bytes(10, 1)) };
    let place = Place::new(vec![file.clone()]);
    let error = place.pull("hf:owner/name").unwrap_err();
    assert!(matches!(error, HubError::Space { needed, .. } if needed == 1 << 60), "{error}");
    assert!(place.hub.seen().iter().all(|seen| !seen.is_second));
}

#[test]
fn what_the_hub_refuses_is_named() {
    let file = Served::large("m.gguf", bytes(10, 1));
    let place = Place::new(vec![file.clone()]);
    let is_head: fn(&Seen) -> bool = |seen| seen.method == "HEAD";
    let is_list: fn(&Seen) -> bool = |seen| seen.path.starts_with("/api/");
    for (is_it, status, code, words) in [
        (is_head, 401, "GatedRepo", "accept terms"),
        (is_head, 403, "GatedRepo", "accept terms"),
        (is_list, 401, "", "HTTP 401"),
        (is_list, 401, "RepoNotFound", "private"),
        (is_list, 404, "RepoNotFound", "owner/name@main is not on 127.0.0.1, or is private"),
        (is_list, 404, "RevisionNotFound", "owner/name@main is not on"),
        (is_head, 404, "EntryNotFound", "m.gguf is not on"),
        (is_head, 418, "", "HTTP 418"),
    ] {
        place
            .hub
            .misbehave(move |seen| is_it(seen).then(|| Fault::status(status, &format!("X-Error-Code: {code}\r\n"))));
        let error = place.pull("hf:owner/name").unwrap_err();
        assert!(error.to_string().contains(words), "{status} {code}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        place.assert_absent(&file);
    }
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    for name in [
        "../x.gguf",
        "a/../../x.gguf",
        "/tmp/x.gguf",
        "..\\x.gguf",
        "C:\\x.gguf",
        "x\0.gguf",
        "x\n.gguf",
        "",
        "a//x.gguf",
    ] {
        let place = Place::new(vec![Served::large("m.gguf", bytes(10, 1)), Served::large(name, bytes(10, 2))]);
        let error = place.pull("hf:owner/name").unwrap_err();
        assert!(matches!(&error, HubError::Answer { why, .. } if why.contains("file name")), "{name:?}: {error}");
        assert!(!error.to_string().contains(['\0', '\n']), "{name:?}");
        assert!(!place.caches().hugging_face.exists(), "{name:?}: nothing was written");
    }
    // A drive of Windows: never chosen.
    let place = Place::new(vec![Served::large("C:x.gguf", bytes(10, 1))]);
    assert!(matches!(place.pull("hf:owner/name"), Err(HubError::Selection { .. })));
    // The ETag and the commit become paths too.
    for etag in ["../../../x", "", "0123", &"a/".repeat(32)] {
        let file = Served { etag: etag.to_owned(), ..Served::large("m.gguf", bytes(10, 1)) };
        let place = Place::new(vec![file]);
        let error = place.pull("hf:owner/name").unwrap_err();
        assert!(error.to_string().contains("ETag"), "{etag:?}: {error}");
        assert!(!place.caches().hugging_face.exists(), "{etag:?}: nothing was written");
    }
    for sha in ["../../x", "", "main", &"g".repeat(40)] {
        let place = Place::new(vec![]);
        place.hub.misbehave(json(format!(r#"{{"sha": "{sha}", "siblings": [{{"rfilename": "m.gguf"}}]}}"#)));
        let error = place.pull("hf:owner/name").unwrap_err();
        assert!(error.to_string().contains("is no commit"), "{sha:?}: {error}");
    }
    let place = Place::new(vec![Served::large("m.gguf", bytes(10, 1))]);
    place.hub.misbehave(|seen| {
        let headers = format!(
            "X-Repo-Commit: {}\r\nX-Linked-Etag: \"{}\"\r\nX-Linked-Size: 3\r\n",
            "1".repeat(40),
            "a".repeat(64)
        );
        (seen.method == "HEAD").then(|| Fault::status(200, &headers))
    });
    let error = place.pull("hf:owner/name").unwrap_err();
    assert!(error.to_string().contains("another commit"), "{error}");
}

/// Answers every list of files with a text.
fn json(text: String) -> impl FnMut(&Seen) -> Option<Fault> + Send {
    let header = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    move |seen| seen.path.starts_with("/api/").then(|| Fault::Raw([header.as_bytes(), text.as_bytes()].concat()))
}

#[test]
fn lists_that_are_no_lists_are_refused() {
    let deep = format!(r#"{{"sha": {}"#, "[".repeat(100_000));
    let many = format!(r#"{{"sha": "{COMMIT}", "siblings": [{}]}}"#, vec![r#"{"rfilename":"a"}"#; 100_001].join(","));
    let cases = [
        "",
        "[]",
        "null",
        "{}",
        "{\"sha\": 3}",
        "\u{feff}{}",
        "<html>",
        r#"{"sha": "x", "siblings": {}}"#,
        &deep,
        &many,
    ];
    for text in cases {
        let place = Place::new(vec![]);
        place.hub.misbehave(json(text.to_owned()));
        let start = Instant::now();
        let error = place.pull("hf:owner/name").unwrap_err();
        assert!(matches!(error, HubError::Answer { .. }), "{text:.40}: {error}");
        assert!(start.elapsed() < Duration::from_secs(1) && error.to_string().len() < 1000, "{text:.40}");
    }
}

#[test]
fn answers_without_an_end_are_bounded() {
    let endless = |start: &str, again: &str| Fault::Endless(start.into(), again.repeat(1000).into());
    let drip = |start: &str| Fault::Slow(1, Duration::from_millis(if start.is_empty() { 100 } else { 0 }));
    let is_list: fn(&Seen) -> bool = |seen| seen.path.starts_with("/api/");
    let is_head: fn(&Seen) -> bool = |seen| seen.method == "HEAD";
    let is_second: fn(&Seen) -> bool = |seen| seen.is_second;
    let ok = "HTTP/1.1 200 OK\r\n";
    let cases = [
        ("headers", is_list, endless(ok, "X-A: b\r\n")),
        ("one header", is_head, endless("HTTP/1.1 200 OK\r\nX-A: ", "b")),
        ("status", is_second, endless("HTTP/1.1 200 ", "b")),
        ("JSON", is_list, endless("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"a\": \"", "b")),
        ("chunks", is_list, endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n")),
        ("content", is_second, endless("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "b")),
        ("interim answers", is_list, endless("", "HTTP/1.1 100 Continue\r\n\r\n")),
        ("nothing", is_list, Fault::Silent),
        ("no header", is_head, Fault::Silent),
        ("no content", is_second, Fault::Silent),
        ("drops", is_second, drip("")),
        ("no HTTP", is_list, Fault::Raw(b"220 mail\r\n".to_vec())),
    ];
    let check = |(what, is_it, fault): (&str, fn(&Seen) -> bool, Fault)| {
        let file = Served::large("m.gguf", bytes(100_000, 1));
        let place = Place::new(vec![file.clone()]);
        place.hub.misbehave(move |seen| is_it(seen).then(|| fault.clone()));
        let start = Instant::now();
        let error = place.pull("hf:owner/name").unwrap_err();
        let taken = start.elapsed();
        assert!(taken < Duration::from_secs(8), "{what}: {taken:?}");
        assert!(error.to_string().len() < 1000, "{what}: {error}");
        place.assert_absent(&file);
    };
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || check(case));
        }
    });
}

#[test]
fn redirects_are_bounded_and_checked() {
    let redirect = |to: &str| Fault::status(302, &format!("Location: {to}\r\n"));
    let round = format!("/api/models/{REPOSITORY}/revision/main");
    for (to, words) in [
        (round.as_str(), "redirects"),
        ("file:///etc/passwd", "no address"),
        ("ftp://127.0.0.1/", "no address"),
        ("http://", "no address"),
        ("relative", "no address"),
        ("", "no address"),
    ] {
        let place = Place::new(vec![]);
        let fault = redirect(to);
        place.hub.misbehave(move |_| Some(fault.clone()));
        let error = place.pull("hf:owner/name").unwrap_err();
        assert!(error.to_string().contains(words), "{to}: {error}");
        assert!(place.hub.seen().len() <= 11);
    }
    // A renamed repository: the hub redirects to itself, and keeps the token.
    let place = Place::new(vec![Served::large("m.gguf", bytes(10, 1))]);
    place.hub.misbehave(|seen| {
        let target = seen.path.replace("/old/name/", "/owner/name/");
        (target != seen.path).then(|| Fault::status(307, &format!("Location: {target}\r\n")))
    });
    place.pull("hf:old/name").unwrap();
    assert!(place.hub.seen().iter().all(|seen| seen.is_second || seen.token.is_some()));
    assert!(place.find("hf:old/name").is_ok());
}

/// It would be the same the next time, and the token is not sent in the clear instead.
#[test]
fn a_server_without_tls_is_asked_once() {
    let mut place = Place::new(vec![]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    place.hub.endpoint = format!("https://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut sent = [0; 4096];
        let read = stream.read(&mut sent).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        listener.set_nonblocking(true).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(listener.accept().is_err(), "asked again");
        sent[..read].to_vec()
    });
    let error = place.pull("hf:owner/name").unwrap_err();
    assert!(matches!(&error, HubError::Request { why, .. } if !why.contains("times")), "{error}");
    let sent = server.join().unwrap();
    assert!(!sent.windows(6).any(|window| window == b"secret"));
}

#[test]
fn a_server_that_is_not_there_is_asked_once() {
    let mut place = Place::new(vec![]);
    // The port is free again.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    place.hub.endpoint = format!("http://{address}");
    let error = place.pull("hf:owner/name").unwrap_err();
    assert_eq!(error.to_string(), "no connection to 127.0.0.1: connection refused");
    // Where a server was reached before, it is asked again.
    let place = Place::new(vec![Served::large("m.gguf", bytes(1, 1))]);
    let target = format!("Location: http://{address}/\r\n");
    place.hub.misbehave(move |seen| (seen.method == "GET").then(|| Fault::status(302, &target)));
    let error = place.pull("hf:owner/name").unwrap_err().to_string();
    assert!(error.ends_with("connection refused, 2 times"), "{error}");
}

#[test]
fn a_model_in_too_many_parts_is_not_asked_for() {
    let part = |number: usize| Served::large(&format!("m-{number:05}-of-00600.gguf"), bytes(1, 1));
    let place = Place::new((1..=600).map(part).collect());
    let error = place.pull("hf:owner/name").unwrap_err().to_string();
    assert_eq!(error, "hf:owner/name: the model is in 600 parts; at most 512 are downloaded");
    assert_eq!(place.hub.seen().len(), 1, "the list of files");
}

/// A hub that sends the beginning, and no part of a file: what arrives again and again is no progress.
#[test]
fn a_hub_that_begins_anew_again_and_again_is_given_up() {
    let file = Served::large("m.gguf", bytes(400_000, 1));
    let other = b"HTTP/1.1 206 x\r\nContent-Range: bytes 0-9/400000\r\nContent-Length: 10\r\n\r\n0123456789".to_vec();
    let whole =
        Fault::Raw([&b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n"[..], &file.content[..200_000]].concat());
    for fault in [Fault::status(416, ""), Fault::Raw(other), whole] {
        let mut place = Place::new(vec![file.clone()]);
        place.patience.attempts = 4;
        place.hub.misbehave(move |seen| {
            let second = if seen.range.is_some() { fault.clone() } else { Fault::Cut(200_000) };
            seen.is_second.then_some(second)
        });
        let error = place.pull("hf:owner/name").unwrap_err().to_string();
        assert!(error.contains("4 times"), "{error}");
        assert!(place.hub.seen().iter().filter(|seen| seen.is_second).count() <= 6);
        place.assert_absent(&file);
    }
}

#[test]
fn a_name_without_an_owner_is_not_asked_for() {
    let place = Place::new(vec![Served::large("m.gguf", bytes(10, 1))]);
    let error = place.pull("hf:name").unwrap_err();
    assert!(matches!(&error, HubError::Name { .. }) && error.to_string().contains("hf:OWNER/NAME"), "{error}");
    assert!(place.hub.seen().is_empty());
}

/// A folder where a file should be, and a file where a folder should be.
#[test]
fn caches_that_are_no_caches_are_named() {
    let file = Served::large("m.gguf", bytes(10, 1));
    let place = Place::new(vec![file.clone()]);
    fs::create_dir_all(place.blob(&format!("{}.incomplete", file.etag))).unwrap();
    let error = place.pull("hf:owner/name").unwrap_err();
    assert!(matches!(error, HubError::Io { .. }) && error.to_string().contains(".incomplete"), "{error}");
    let place = Place::new(vec![file]);
    fs::write(place.caches().hugging_face, "a file").unwrap();
    let error = place.pull("hf:owner/name").unwrap_err();
    assert!(matches!(error, HubError::Io { .. }), "{error}");
    assert!(place.find("hf:owner/name").is_err());
}
