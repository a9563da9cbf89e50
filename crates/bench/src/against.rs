//! An earlier record to compare with.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::error::BenchError;
use crate::format::csv_records;
use crate::row::Row;

/// The fields of a row of an earlier record that a comparison needs.
#[derive(Debug, Deserialize)]
struct Earlier {
    kernel: String,
    dtype: String,
    shape: String,
    threads: usize,
    isa: String,
    contender: String,
    median_us: Option<f64>,
}

/// Medians of an earlier record.
#[derive(Debug)]
pub struct Baseline {
    medians: HashMap<(String, String, String, usize, String, String), f64>,
}

impl Baseline {
    /// Reads a record that was written as JSON, as JSON lines or as CSV.
    ///
    /// # Errors
    /// [`BenchError::Record`] if the file can't be read, or holds no times.
    pub fn read(path: &Path) -> Result<Self, BenchError> {
        let failed = |why: String| BenchError::Record { path: path.to_owned(), why };
        let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let rows = match text.trim_start().chars().next() {
            Some('[') => serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?,
            Some('{') => json_lines(&text).map_err(failed)?,
            _ => csv(&text).map_err(failed)?,
        };
        let medians: HashMap<_, _> = rows
            .into_iter()
            .filter_map(|row: Earlier| {
                let median = row.median_us.filter(|us| us.is_finite() && *us > 0.0)?;
                Some(((row.kernel, row.dtype, row.shape, row.threads, row.isa, row.contender), median))
            })
            .collect();
        if medians.is_empty() {
            return Err(failed("holds no times of kernels".into()));
        }
        Ok(Self { medians })
    }

    /// The row's median divided by that of the same row of the earlier record.
    pub fn ratio(&self, row: &Row) -> Option<f64> {
        let (kernel, dtype, shape, threads, isa, contender) = row.key();
        let owned = str::to_owned;
        let key = (owned(kernel), owned(dtype), owned(shape), threads, owned(isa), owned(contender));
        Some(row.median_us? / self.medians.get(&key)?)
    }
}

fn json_lines(text: &str) -> Result<Vec<Earlier>, String> {
    let parse =
        |(i, line): (usize, &str)| serde_json::from_str(line).map_err(|error| format!("line {}: {error}", i + 1));
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}

fn csv(text: &str) -> Result<Vec<Earlier>, String> {
    let records = csv_records(text);
    let (header, records) = records.split_first().ok_or("is empty")?;
    let column = |name: &str| header.iter().position(|h| h == name).ok_or_else(|| format!("has no column `{name}`"));
    let [kernel, dtype, shape, isa, contender] =
        [column("kernel")?, column("dtype")?, column("shape")?, column("isa")?, column("contender")?];
    let (threads, median) = (column("threads")?, column("median_us")?);
    let parse = |(i, record): (usize, &Vec<String>)| {
        let field = |at: usize| record.get(at).cloned().ok_or_else(|| format!("record {} is too short", i + 1));
        let text = field(threads)?;
        Ok(Earlier {
            kernel: field(kernel)?,
            dtype: field(dtype)?,
            shape: field(shape)?,
            threads: text.parse().map_err(|_| format!("record {}: `{text}` threads", i + 1))?,
            isa: field(isa)?,
            contender: field(contender)?,
            median_us: field(median)?.parse().ok(),
        })
    };
    records.iter().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::RecordFormat;
    use crate::row::roof_rows;

    #[test]
    fn a_record_is_compared_in_each_of_its_forms() {
        let dir = tempfile::tempdir().unwrap();
        let rows = roof_rows(&crate::row::tests::roofs(), "1");
        for format in [RecordFormat::Json, RecordFormat::JsonLines, RecordFormat::Csv] {
            let path = dir.path().join("record");
            let body: String = rows.iter().enumerate().map(|(i, row)| format.row(i, row)).collect();
            fs::write(&path, format!("{}{body}{}", format.begin(), format.end())).unwrap();
            let baseline = Baseline::read(&path).unwrap();
            for row in &rows {
                let slower = Row { median_us: row.median_us.map(|us| 2.0 * us), ..row.clone() };
                let ratio = baseline.ratio(&slower).unwrap();
                assert!((ratio - 2.0).abs() < 1e-3, "{format:?}: {ratio}");
                assert_eq!(baseline.ratio(&Row { threads: 77, ..row.clone() }), None);
            }
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        for (text, word) in
            [("", "no column"), ("a,b\n1,2\n", "kernel"), ("[{}]", "missing"), ("[]", "no times"), ("{", "line 1")]
        {
            fs::write(&path, text).unwrap();
            let error = Baseline::read(&path).unwrap_err().to_string();
            assert!(error.contains(word) || text.is_empty(), "{text}: {error}");
        }
        assert!(Baseline::read(&dir.path().join("none")).is_err());
    }
}
