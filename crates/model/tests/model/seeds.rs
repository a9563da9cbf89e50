//! The inputs that the fuzz targets begin with: small models of every family, vocabularies, configurations, templates
//! and importance matrices.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use smallmind_checkpoint::{CONFIG_FILE, WEIGHTS_FILE};
use smallmind_kernels::Format;
use smallmind_model::chat::ChatTemplates;
use smallmind_model::export::{ExportOptions, GgufExport, WeightMix};
use smallmind_model::tokenizer::Tokenizer;
use smallmind_model::{ExpertsConfig, Family, LoadOptions, ModelConfig, ModelFiles};

use super::corpus::CORPUS;
use super::{distinct, hostile};

/// Templates that use what published ones use, and what could cost much.
const TEMPLATES: [&str; 12] = [
    "{% set ns = namespace(x=0) %}{% for m in messages %}{% set ns.x = ns.x + 1 %}{% endfor %}{{ ns.x }}",
    "{% macro f(a, b=2) %}{{ a * b }}{% endmacro %}{{ f(3) }}{{ f('x', 1000) }}",
    "{% macro f(a) %}{{ f(a + 1) }}{% endmacro %}{{ f(0) }}",
    "{{ messages[::-1] | tojson(indent=2) }}{{ tools | tojson }}",
    "{{ range(10, 0, -1) | list | join(',') }}{{ 'a,b'.split(',') }}{{ 'x'.replace('x', 'yy').upper() }}",
    "{{ strftime_now('%d %b %Y') }}{{ raise_exception('no') }}",
    "{% for k, v in messages[0].items() recursive %}{{ loop.index }}{{ k }}={{ v }}{% endfor %}",
    "{% generation %}{{ 2 ** 10 // 3 % 7 }}{% endgeneration %}{{ 1e308 * 10 }}{{ 9223372036854775807 + 1 }}",
    "{{ '%s' | format(1) }}{{ [1, 2] + [3] }}{{ {'a': 1} | dictsort }}{{ 'abc'[-2:] }}{{ x is defined and not y }}",
    "{% set x = [0] %}{% for i in range(3) %}{% set x = x + x %}{% endfor %}{{ x | length }}",
    "{%- if messages[0]['role'] == 'system' %}{{- messages[0].content.strip() ~ '\n' }}{% else %}{% break %}{% endif %}",
    "{% filter upper %}{% for m in messages | selectattr('role', 'equalto', 'user') %}{{ m.content }}{% endfor %}{% endfilter %}",
];

fn write(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let folder = Path::new(CORPUS).join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
}

/// A model of two layers; rows of `width` elements.
fn config(family: Family, width: usize) -> ModelConfig {
    let has_experts = matches!(family, Family::Qwen3Moe | Family::Olmoe | Family::GraniteMoe | Family::Mixtral);
    let experts = ExpertsConfig { count: 2, per_token: 1, sums_to_one: family != Family::Olmoe };
    family.applied_to(ModelConfig {
        vocab_size: 9,
        context: 16,
        d_model: width,
        layers: 2,
        heads: 2,
        kv_heads: 2,
        head_dim: width / 2,
        d_ff: width,
        experts: has_experts.then_some(experts),
        eos: vec![2],
        ..ModelConfig::default()
    })
}

/// The files of a repository's folder whose names end so.
fn goldens(folder: &str, end: &str) -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = paths.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), path));
    named.filter(|(name, _)| name.ends_with(end)).collect()
}

#[test]
#[ignore = "writes the seeds of fuzz/corpus anew"]
fn seeds_of_the_fuzz_targets() {
    let tokenizer = Tokenizer::characters("abcdefghi").unwrap();
    let mut templates = ChatTemplates::new();
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}";
    templates.add("default", "a seed", template);
    for family in Family::ALL {
        let folder = tempfile::tempdir().unwrap();
        distinct(config(family, 4)).save(folder.path()).unwrap();
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        write("safetensors", family.name(), [&read(CONFIG_FILE)[..], &[0], &read(WEIGHTS_FILE)].concat());
        let files = ModelFiles::open(folder.path()).unwrap();
        let options = ExportOptions { mix: WeightMix::F32, overrides: vec![], importance: None, threads: 1 };
        let Ok(export) = GgufExport::new(&files, LoadOptions::default(), options) else { continue };
        let mut bytes = Vec::new();
        export.write("seed", Some(&tokenizer), &templates, &mut bytes, &|_| {}).unwrap();
        write("gguf", family.name(), bytes);
    }
    // One tensor in each format whose blocks are short.
    let folder = tempfile::tempdir().unwrap();
    distinct(ModelConfig { layers: 1, ..config(Family::Llama, 32) }).save(folder.path()).unwrap();
    let files = ModelFiles::open(folder.path()).unwrap();
    let overrides = [
        ("attn_q", Format::Q8_0),
        ("attn_k", Format::Q4_0),
        ("attn_v", Format::Q5_1),
        ("attn_output", Format::Iq4Nl),
        ("ffn_gate", Format::Mxfp4),
        ("ffn_up", Format::Q4_1),
        ("ffn_down", Format::Q5_0),
    ];
    let overrides = overrides.map(|(part, format)| (part.to_owned(), format)).into();
    let options = ExportOptions { mix: WeightMix::Q8_0, overrides, importance: None, threads: 1 };
    let mut bytes = Vec::new();
    let export = GgufExport::new(&files, LoadOptions::default(), options).unwrap();
    export.write("seed", None, &ChatTemplates::new(), &mut bytes, &|_| {}).unwrap();
    write("gguf", "blocks", bytes);
    write("gguf", "hand-made", hostile::llama().bytes());
    write("imatrix", "hand-made", hostile::imatrix().bytes());
    write("imatrix", "model", hostile::llama().bytes());

    for (name, path) in goldens("checkpoint/tests/goldens", ".gguf") {
        write("gguf", &name, fs::read(&path).unwrap());
        write("imatrix", &name, fs::read(path).unwrap());
    }
    for (name, path) in goldens("model/tests/goldens/tokenizers", ".gguf") {
        write("gguf", &name, fs::read(&path).unwrap());
        write("tokenizer", &name, Tokenizer::from_file(path).unwrap().to_json().unwrap());
    }
    write("tokenizer", "characters", tokenizer.to_json().unwrap());
    for (name, path) in goldens("train/tests/goldens", "") {
        if path.is_dir() {
            write("config", &name, fs::read(path.join(CONFIG_FILE)).unwrap());
        }
    }
    for (number, source) in TEMPLATES.iter().enumerate() {
        write("template", &format!("hand-made-{number}"), source);
    }
    let chat: Value = serde_json::from_str(include_str!("../goldens/chat.json")).unwrap();
    for case in chat["templates"].as_array().unwrap() {
        write("template", case["name"].as_str().unwrap(), case["template"].as_str().unwrap());
    }
}
