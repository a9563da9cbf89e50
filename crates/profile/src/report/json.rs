//! The report as JSON: its data, with the fields of some parts at the level of the whole, and its sentences.

use std::fmt;

use serde::{Serialize, Serializer};

use super::advice::{Milestone, WhatIf};
use super::phase::{Arena, Breakdown, Counted, MachineState, Phase, PhaseKind, Rate, SampleStats, Slice, TimeSplit};
use super::{Operation, Report, RoofTable, SCHEMA_VERSION, Subject, words};
use crate::SystemUse;
use crate::traffic::Traffic;

/// Why a text isn't the report of a profile.
#[derive(Debug)]
pub enum ReportError {
    /// It isn't JSON, or lacks fields of a report.
    Json(serde_json::Error),
    /// Its `schema_version` is missing, or differs from [`SCHEMA_VERSION`].
    Version(Option<u64>),
}

impl fmt::Display for ReportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => error.fmt(f),
            Self::Version(found) => {
                write!(f, "its schema_version is {found:?}, this program reads {SCHEMA_VERSION}")
            }
        }
    }
}

impl std::error::Error for ReportError {}

impl Report {
    /// Reads the JSON of a report.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn from_json(text: &str) -> Result<Self, ReportError> {
        let document = serde_json::from_str::<serde_json::Value>(text).map_err(ReportError::Json)?;
        let version = document["schema_version"].as_u64();
        if version != Some(u64::from(SCHEMA_VERSION)) {
            return Err(ReportError::Version(version));
        }
        // It is parsed from the text again, so that errors tell the line.
        serde_json::from_str(text).map_err(ReportError::Json)
    }
}

#[derive(Serialize)]
struct ReportDocument<'a> {
    schema_version: u32,
    subject: &'a Subject,
    roofs: &'a RoofTable,
    system: &'a SystemUse,
    summary: Vec<String>,
    warnings: Vec<String>,
    phases: &'a [Phase],
    baseline: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline_refused: &'a Option<String>,
    baseline_mismatches: &'a [String],
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let document = ReportDocument {
            schema_version: self.schema_version,
            subject: &self.subject,
            roofs: &self.roofs,
            system: &self.system,
            summary: words::summary(self),
            warnings: words::warnings(self),
            phases: &self.phases,
            baseline: &self.baseline,
            baseline_refused: &self.baseline_refused,
            baseline_mismatches: &self.baseline_mismatches,
        };
        document.serialize(serializer)
    }
}

#[derive(Serialize)]
struct PhaseDocument<'a> {
    name: PhaseKind,
    about: &'a str,
    #[serde(flatten)]
    samples: &'a SampleStats,
    #[serde(flatten)]
    rate: &'a Rate,
    #[serde(flatten)]
    time: &'a TimeSplit,
    #[serde(flatten)]
    counted: &'a Counted,
    traffic: &'a Traffic,
    operations: Vec<OperationDocument<'a>>,
    what_ifs: Vec<WhatIfDocument<'a>>,
    roadmap: Vec<MilestoneDocument<'a>>,
    #[serde(flatten)]
    breakdown: &'a Breakdown,
    #[serde(flatten)]
    machine: &'a MachineState,
    arenas: &'a [Arena],
    timeline: &'a [Slice],
}

#[derive(Serialize)]
struct OperationDocument<'a> {
    #[serde(flatten)]
    operation: &'a Operation,
    why: String,
}

#[derive(Serialize)]
struct WhatIfDocument<'a> {
    what: String,
    #[serde(flatten)]
    what_if: &'a WhatIf,
}

#[derive(Serialize)]
struct MilestoneDocument<'a> {
    what: String,
    #[serde(flatten)]
    milestone: &'a Milestone,
}

impl Serialize for Phase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let operation =
            |operation| OperationDocument { operation, why: words::why(operation, self).unwrap_or_default() };
        let what_if = |what_if| WhatIfDocument { what: words::what_if(what_if), what_if };
        let milestone = |milestone| MilestoneDocument { what: words::milestone(milestone, self), milestone };
        let document = PhaseDocument {
            name: self.kind,
            about: &self.about,
            samples: &self.samples,
            rate: &self.rate,
            time: &self.time,
            counted: &self.counted,
            traffic: &self.traffic,
            operations: self.operations.iter().map(operation).collect(),
            what_ifs: self.outlook.what_ifs.iter().map(what_if).collect(),
            roadmap: self.outlook.roadmap.iter().map(milestone).collect(),
            breakdown: &self.breakdown,
            machine: &self.machine,
            arenas: &self.arenas,
            timeline: &self.timeline,
        };
        document.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::advice::{Advice, Alternative, Evidence};
    use super::super::{Doubt, IfMismatched, Warning, example};
    use super::*;

    fn read(document: &Value) -> Report {
        Report::from_json(&document.to_string()).expect("a report")
    }

    #[test]
    fn a_report_reads_what_it_writes() {
        let report = read(&example("a model"));
        let written = serde_json::to_value(&report).unwrap();
        assert_eq!(read(&written), report);
        let phase = &written["phases"][0];
        assert_eq!((&phase["name"], &phase["samples"], &phase["beats"]), (&json!("decode"), &json!(1), &json!([])));
        assert_eq!(phase["operations"][0]["roof_seconds"], 0.1);
        assert_eq!(phase["what_ifs"][0]["what"], "twice the context");
        assert_eq!(phase["roadmap"][0]["what"], "a model @ a model: read its bytes at the rate that the memory has");
        assert!(phase["operations"][0]["why"].as_str().unwrap().starts_with("Bound by memory: 2 B a token"), "{phase}");
        assert!(written["summary"][0].as_str().unwrap().starts_with("Decode reaches 1.00 tokens/s"), "{written}");
    }

    /// Reports of earlier versions, which had alternatives and steps only in words, are read without these.
    #[test]
    fn earlier_reports_are_read() {
        let mut document = example("a model");
        document["phases"][0]["what_ifs"] =
            json!([{ "what": "twice the context", "tokens_per_second": 1.0, "change": 0.1, "by": "computed" }]);
        document["phases"][0]["roadmap"] = json!([{ "what": "x", "tokens_per_second": 1.0, "change": 0.1 }]);
        document["summary"] = json!(["x"]);
        let outlook = &read(&document).phases[0].outlook;
        assert!(outlook.what_ifs.is_empty() && outlook.roadmap.is_empty(), "{outlook:?}");
        document["schema_version"] = json!(2);
        assert!(matches!(Report::from_json(&document.to_string()), Err(ReportError::Version(Some(2)))));
        assert!(matches!(Report::from_json("{}"), Err(ReportError::Version(None))));
        assert!(matches!(Report::from_json("{"), Err(ReportError::Json(_))));
    }

    #[test]
    fn advice_is_what_is_worth_it() {
        let mut phase = read(&example("a model")).phases.remove(0);
        let of = |alternative, change, by| WhatIf { alternative, tokens_per_second: 1.0, change, by };
        let threads = |then, change| of(Alternative::Threads { now: 2, then }, change, Evidence::Measured);
        let (cache, roofs) = (of(Alternative::QuantizedCache, 0.2, Evidence::Computed), Alternative::Roofs);
        let small = of(Alternative::Bf16Weights, 0.001, Evidence::Computed);
        phase.operations[0].roof.gain = 0.5;
        phase.outlook.what_ifs =
            vec![threads(1, -0.1), threads(3, 0.1), cache, small, of(roofs, 9.0, Evidence::Computed)];
        let improve = Advice::Improve { rank: 1, change: 0.5 };
        let expected = [improve, Advice::ChangeThreads(threads(3, 0.1)), Advice::ChangeFormats(vec![cache])];
        assert_eq!(phase.advice(), expected);
        phase.operations[0].roof.gain = 0.0;
        phase.outlook.what_ifs = vec![threads(1, -0.1), small];
        assert_eq!(phase.advice(), [Advice::WorkLess, Advice::KeepThreads(threads(1, -0.1))]);
        phase.operations.clear();
        assert_eq!(phase.advice(), []);
    }

    #[test]
    fn doubts_and_a_refused_baseline_are_warnings() {
        let mut report = read(&example("a model"));
        report.baseline_refused = None;
        assert_eq!(report.warnings(), []);
        report.phases[0].samples.noise = 0.2;
        let mut other = report.clone();
        other.subject.threads = 7;
        report.set_beside(&other, "other", IfMismatched::Refuse);
        let mismatches = vec!["threads: 7, now 1".to_owned()];
        let refused = Warning::Baseline { name: "other".to_owned(), mismatches: mismatches.clone() };
        let noise = Warning::Phase(PhaseKind::Decode, Doubt::Noise(0.2));
        assert_eq!(report.warnings(), [noise.clone(), refused]);
        assert!(!report.phases[0].has_baseline());
        let mut report = read(&example("a model"));
        (report.baseline_refused, report.phases[0].samples.noise) = (None, 0.2);
        report.set_beside(&other, "other", IfMismatched::Compare);
        assert_eq!((report.warnings(), report.baseline_mismatches), (vec![noise], mismatches));
        assert_eq!(report.phases[0].operations[0].time.ratio(), Some(1.0));
    }
}
