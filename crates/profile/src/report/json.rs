//! The report as JSON: its data with the fields of parts beside those of the whole, and its sentences.

use serde::{Serialize, Serializer};

use super::advice::{Milestone, WhatIf};
use super::phase::{Arena, Counted, MachineState, Phase, PhaseKind, Rate, SampleStats, Slice, Stages, TimeSplit};
use super::{Operation, Report, RoofTable, Subject, words};
use crate::SystemUse;
use crate::traffic::Traffic;

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
    stages: &'a Stages,
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
            stages: &self.stages,
            machine: &self.machine,
            arenas: &self.arenas,
            timeline: &self.timeline,
        };
        document.serialize(serializer)
    }
}
