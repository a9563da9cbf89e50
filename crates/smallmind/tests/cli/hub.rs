//! Models on the hub: downloads from a hub on loopback, names in place of folders, the list of what is there.

// Another test uses the rest.
#[allow(dead_code)]
#[path = "../../../hub/src/tests/loopback.rs"]
mod loopback;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use loopback::{COMMIT, Fault, LoopbackHub, Served};
use serde_json::Value;

use crate::support::{Bench, Ran};

/// The program, with caches in the folder `cache` and this hub.
fn command(bench: &Bench, hub: &LoopbackHub, line: &str) -> Command {
    let mut command = bench.command(line);
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_uppercase();
        if upper.starts_with("HF_") || upper.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command.env("HF_HOME", bench.path("cache")).env("LLAMA_CACHE", bench.path("llama"));
    command.env("HF_ENDPOINT", &hub.endpoint);
    command
}

fn run(bench: &Bench, hub: &LoopbackHub, line: &str) -> Ran {
    Ran::of(command(bench, hub, line).output().unwrap())
}

fn repository(bench: &Bench) -> PathBuf {
    bench.path("cache/hub/models--owner--name")
}

/// The files of the model `model`.
fn model_files(bench: &Bench) -> Vec<Served> {
    bench.random_model();
    let read = |name: &str| fs::read(bench.path("model").join(name)).unwrap();
    vec![
        Served::small("config.json", read("config.json")),
        Served::small("tokenizer.json", read("tokenizer.json")),
        Served::large("model.safetensors", read("model.safetensors")),
        Served::small("README.md", "none of the model"),
    ]
}

/// A file that takes a while, in the pace of the hub.
fn slow_hub(pause: Duration) -> (Served, LoopbackHub) {
    let file = Served::large("m.gguf", vec![7; 2 << 20]);
    let hub = LoopbackHub::start(vec![file.clone()]);
    hub.misbehave(move |seen| seen.is_second.then_some(Fault::Slow(64 << 10, pause)));
    (file, hub)
}

#[test]
fn a_model_is_downloaded_and_used_by_its_name() {
    let bench = Bench::with_text();
    let hub = LoopbackHub::start(model_files(&bench));
    let run = |line: &str| run(&bench, &hub, line);
    run("generate -m hf:owner/name -n 3").fails(3, &["hf:owner/name is not on", "`smallmind pull hf:owner/name`"]);
    assert!(hub.seen().is_empty(), "only `pull` opens a connection");

    let ran = run("pull hf:owner/name");
    assert!(ran.stderr.contains("model.safetensors: ") && ran.stderr.contains("generate -m hf:owner/name"), "{ran:?}");
    let folder = repository(&bench).join("snapshots").join(COMMIT);
    assert_eq!(ran.ok(), format!("{}\n", folder.display()));
    assert!(hub.seen().iter().all(|seen| seen.token.is_none()));

    let generated = run("generate -m hf:owner/name -n 20 --seed 1 --threads 1").ok();
    assert_eq!(generated, run("generate -m model -n 20 --seed 1 --threads 1").ok());
    assert_eq!(run("inspect hf:owner/name --json").json()["model"], folder.to_str().unwrap());
    assert!(!run("tokenize -m hf:owner/name text.txt").ok().is_empty());
    run("eval -m hf:owner/name --data text.txt --threads 1").ok();
    run("profile generate -m hf:owner/name --runs 1 -n 2 --threads 1").ok();
    let named =
        command(&bench, &hub, "generate -n 20 --seed 1 --threads 1").env("SMALLMIND_MODEL", "hf:owner/name").output();
    assert_eq!(Ran::of(named.unwrap()).ok(), generated);

    let listed = run("models --json").json();
    let model = &listed["models"][0];
    assert_eq!((&model["model"], &model["kind"]), (&"hf:owner/name".into(), &"safetensors".into()), "{listed}");
    assert_eq!((&model["architecture"], &model["missing"]), (&"gpt2".into(), &Value::Null));
    assert_eq!(listed["models"].as_array().unwrap().len(), 1);
    let both = run("models .").ok();
    assert!(both.contains("hf:owner/name ") && both.contains("./model "), "{both}");
    assert!(hub.seen().is_empty(), "only `pull` opens a connection");

    let events = run("pull hf:owner/name --json").events();
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds.last()), ("planned", Some(&"done")), "{events:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == "completed").count(), 3);
    assert_eq!(events.last().unwrap()["path"], folder.to_str().unwrap());
    assert_eq!(events[0]["bytes"], events[0]["present"]);
}

#[test]
fn tokens_and_caches_come_from_the_environment() {
    let bench = Bench::new();
    let hub = LoopbackHub::start(vec![Served::large("m-Q8_0.gguf", vec![1; 100])]);
    let tokens = |command: &mut Command| {
        Ran::of(command.output().unwrap()).ok();
        let sent = |seen: loopback::Seen| if seen.is_second { None } else { seen.token };
        let mut tokens: Vec<_> = hub.seen().into_iter().filter_map(sent).collect();
        tokens.dedup();
        tokens
    };
    let line = "pull hf:owner/name:q8_0";
    assert_eq!(tokens(command(&bench, &hub, line).env("HF_TOKEN", "one")), ["Bearer one"]);
    fs::write(bench.path("cache/token"), "two\n").unwrap();
    assert_eq!(tokens(&mut command(&bench, &hub, line)), ["Bearer two"]);
    assert_eq!(tokens(command(&bench, &hub, line).env("HF_TOKEN", "one")), ["Bearer one"]);
    tokens(command(&bench, &hub, line).env("HF_HUB_CACHE", bench.path("other")));
    assert!(bench.path("other/models--owner--name/refs/main").exists());
    tokens(command(&bench, &hub, line).env_remove("HF_HOME").env("XDG_CACHE_HOME", bench.path("xdg")));
    assert!(bench.path("xdg/huggingface/hub/models--owner--name/refs/main").exists());
    tokens(
        command(&bench, &hub, line).env_remove("HF_HOME").env_remove("XDG_CACHE_HOME").env("HOME", bench.path("home")),
    );
    assert!(bench.path("home/.cache/huggingface/hub/models--owner--name/refs/main").exists());
    tokens(command(&bench, &hub, "pull hf:owner/name --revision v1").env("HF_HOME", "relative"));
    assert!(bench.path("relative/hub/models--owner--name/refs/v1").exists());

    let secret = command(&bench, &hub, line).env("HF_TOKEN", "no token\u{1b}").output().unwrap();
    let ran = Ran::of(secret);
    assert!(!ran.stderr.contains("no token"), "{ran:?}");
    ran.fails(2, &["token", "ASCII"]);
    let offline = command(&bench, &hub, line).env("HF_HUB_OFFLINE", "1").output().unwrap();
    Ran::of(offline).fails(2, &["HF_HUB_OFFLINE"]);
    let unknown = command(&bench, &hub, line).env("HF_ENDPOINT", "http://smallmind.invalid").output().unwrap();
    Ran::of(unknown)
        .fails(1, &["error: no connection to smallmind.invalid: name not found; check the network", "HF_ENDPOINT\n"]);
    let nowhere = command(&bench, &hub, line).env("HF_ENDPOINT", "ftp://x").output().unwrap();
    Ran::of(nowhere).fails(2, &["address", "https://"]);
    assert!(hub.seen().is_empty());
}

#[test]
fn failures_have_the_codes_of_the_contract() {
    let bench = Bench::new();
    let hub =
        LoopbackHub::start(vec![Served::large("m-Q8_0.gguf", vec![1; 100]), Served::large("m-Q6_K.gguf", vec![2; 9])]);
    let run = |line: &str| run(&bench, &hub, line);
    run("pull").fails(2, &["NAME"]);
    run("pull owner/name:Q8_0").fails(2, &["owner/name:Q8_0: ", "smallmind pull hf:owner/name:Q8_0"]);
    run("pull ../name").fails(2, &["hf:"]);
    run("pull hf:../name").fails(2, &["owner/name"]);
    run("pull hf:owner/name@a --revision b").fails(2, &["--revision"]);
    run("pull hf:owner/name:Q5_0").fails(2, &["Q5_0", "m-Q8_0.gguf"]);
    run("pull hf:owner/other").fails(1, &["owner/other", "127.0.0.1", "HF_TOKEN"]);
    run("generate -m hf:owner/name:x.bin").fails(2, &[".gguf"]);
    run("tokenize -m hf:owner/name").fails(3, &["smallmind pull hf:owner/name"]);
    hub.misbehave(|seen| (seen.method == "HEAD").then(|| Fault::status(403, "X-Error-Code: GatedRepo\r\n")));
    run("pull hf:owner/name").fails(1, &["403", "accept terms", "HF_TOKEN"]);
    hub.misbehave(|seen| {
        let wrong =
            [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n".to_vec(), vec![3; 100]].concat();
        seen.is_second.then_some(Fault::Raw(wrong))
    });
    run("pull hf:owner/name").fails(3, &["m-Q8_0.gguf", "SHA-256"]);
    assert!(run("models").ok().is_empty());
    // A GGUF file of the cache is found.
    hub.misbehave(|_| None);
    let path = run("pull hf:owner/name").ok();
    assert!(Path::new(path.trim()).ends_with("m-Q8_0.gguf"), "{path}");
    let listed = run("models").ok();
    assert!(listed.contains("hf:owner/name:Q8_0  gguf ") && listed.contains("not a whole GGUF file"), "{listed}");
}

/// What `models` says of a file is what the file says, not its name.
#[test]
fn files_in_a_folder_are_listed_as_what_they_are() {
    let bench = Bench::with_text();
    let hub = LoopbackHub::start(vec![]);
    let run = |line: &str| run(&bench, &hub, line);
    bench.random_model();
    fs::create_dir_all(bench.path("all/empty")).unwrap();
    run("quantize -m model --format q8_0 --out all/m-Q2_K.gguf").ok();
    run("imatrix -m model --data text.txt --out all/matrix.gguf --context 16 --chunks 1 --threads 1").ok();
    bench.write("all/fake.gguf", "no GGUF");
    bench.write("all/.tmp-new-1-x.gguf", "GGUF");
    bench.train("all/run", "--checkpoint.interval=2").ok();
    assert!(fs::read_dir(bench.path("all/run/checkpoints")).unwrap().count() > 1);
    let listed = run("models all --json").json();
    let of = |name: &str| {
        let rows = listed["models"].as_array().unwrap();
        let row = rows.iter().find(|row| row["model"] == name).unwrap_or_else(|| panic!("{name} in {listed}"));
        ["kind", "format", "architecture", "problem"].map(|key| row[key].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(of("all/m-Q2_K.gguf"), ["gguf", "Q8_0", "gpt2", ""]);
    assert_eq!(of("all/matrix.gguf"), ["gguf", "", "", "an importance matrix, no model"]);
    assert_eq!(of("all/fake.gguf"), ["gguf", "", "", "not a whole GGUF file"]);
    assert_eq!(of("all/run"), ["safetensors", "", "gpt2", ""]);
    assert_eq!(listed["models"].as_array().unwrap().len(), 4, "{listed}");
    let none = run("models all/empty");
    assert!(none.stderr.contains("no models in ") && none.stderr.contains(", all/empty; "), "{none:?}");
    let some = run("models all all/empty");
    assert!(some.stderr.ends_with("no models in all/empty\n"), "{some:?}");
    run("models all/fake.gguf").fails(2, &["all/fake.gguf: this is a file", "inspect"]);
}

/// Only the crate `hub` can open a connection: no other depends on a client, or uses a socket of the standard library.
#[test]
fn no_other_crate_knows_the_network() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut manifests = 0;
    for entry in fs::read_dir(crates).unwrap() {
        let dir = entry.unwrap().path();
        let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap();
        manifests += 1;
        if dir.file_name().unwrap() == "hub" {
            assert!(manifest.contains("ureq"));
            continue;
        }
        for client in ["ureq", "hf-hub", "reqwest", "hyper", "tokio", "rustls", "curl", "socket2"] {
            assert!(!manifest.contains(client), "{} depends on {client}", dir.display());
        }
        let mut folders = vec![dir.join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    for socket in ["TcpStream", "TcpListener", "UdpSocket", "UnixStream", "ToSocketAddrs", "std::net"] {
                        assert!(!text.contains(socket), "{} uses {socket}", path.display());
                    }
                }
            }
        }
    }
    assert!(manifests >= 10);
}

#[test]
fn a_killed_download_goes_on() {
    let bench = Bench::new();
    let (file, hub) = slow_hub(Duration::from_millis(4));
    let (blob, reference) = (repository(&bench).join("blobs").join(&file.etag), repository(&bench).join("refs/main"));
    let mut random = 17u64;
    let mut left = 0;
    for _ in 0..20 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut child =
            command(&bench, &hub, "pull hf:owner/name").stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis((random >> 33) % 60));
        child.kill().unwrap();
        child.wait().unwrap();
        if blob.exists() {
            assert_eq!(fs::read(&blob).unwrap(), file.content);
            break;
        }
        assert!(!reference.exists());
        let there = fs::read(blob.with_extension("incomplete")).unwrap_or_default();
        assert!(there.len() >= left && file.content.starts_with(&there));
        left = there.len();
    }
    let path = run(&bench, &hub, "pull hf:owner/name").ok();
    assert_eq!(fs::read(path.trim()).unwrap(), file.content);
    assert!(!blob.with_extension("incomplete").exists());
}

#[cfg(unix)]
#[test]
fn an_interrupted_download_says_how_to_go_on() {
    let bench = Bench::new();
    let (file, hub) = slow_hub(Duration::from_millis(100));
    let mut child = command(&bench, &hub, "pull hf:owner/name --json");
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("progress") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0);
    }
    let name = crate::support::interrupt();
    assert!(Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("pull hf:owner/name continues") && !stderr.contains("error"), "{stderr}");
    let incomplete = repository(&bench).join("blobs").join(format!("{}.incomplete", file.etag));
    assert!(fs::metadata(&incomplete).unwrap().len() >= 64 << 10);
    let listed = run(&bench, &hub, "models").ok();
    assert!(listed.contains("hf:owner/name: an unfinished download, "), "{listed}");
    hub.misbehave(|_| None);
    let ran = run(&bench, &hub, "pull hf:owner/name");
    assert!(ran.stderr.contains("continued after"), "{ran:?}");
    assert_eq!(fs::read(ran.ok().trim()).unwrap(), file.content);
}
