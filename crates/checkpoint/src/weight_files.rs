//! The weights of a model: one safetensors file, or several with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::error::{CheckpointError, IndexFault};
use crate::file::not_found;
use crate::header::MAX_TENSORS;
use crate::json::read_json;
use crate::tensor_source::check_inside;
use crate::{StoredTensor, TensorFile, TensorInfo, TensorSource};

/// The most files of a model's weights.
pub const MAX_SHARDS: usize = 512;

/// The tensors of a model, in one file or several.
///
/// Reading works as in [`TensorFile`], by any number of threads at once.
#[derive(Debug)]
pub struct WeightFiles {
    path: PathBuf,
    shards: Vec<TensorFile>,
    /// The shard and the name of each tensor, in the order of names.
    tensors: Vec<(usize, TensorInfo)>,
}

impl WeightFiles {
    /// The weights in one file.
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let file = TensorFile::open(path)?;
        let tensors = file.tensors().map(|info| (0, info.clone())).collect();
        Ok(Self { path: file.path().to_path_buf(), shards: vec![file], tensors })
    }

    /// The weights in the files that an index (`model.safetensors.index.json`) names; they are in the same folder.
    ///
    /// A tensor that the index does not list is not part of the weights. One that stands in two of the files must be the
    /// same in both. The index's `metadata` may be absent: it only repeats sizes.
    pub fn open_index(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let refuse = |fault| CheckpointError::Index { path: path.to_path_buf(), fault };
        let map = weight_map(read_json(path)?).map_err(refuse)?;
        let names: BTreeSet<&str> = map.values().map(String::as_str).collect();
        if names.len() > MAX_SHARDS {
            return Err(refuse(IndexFault::TooManyShards));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut shards = Vec::with_capacity(names.len());
        let mut numbers = BTreeMap::new();
        for name in names {
            let shard = folder.join(name);
            if fs::metadata(&shard).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
                return Err(refuse(IndexFault::MissingShard(name.to_owned())));
            }
            numbers.insert(name, shards.len());
            shards.push(TensorFile::open(shard)?);
        }
        let mut tensors = Vec::with_capacity(map.len());
        for (tensor, shard) in &map {
            let number = numbers[shard.as_str()];
            let Ok(info) = shards[number].info(tensor) else {
                return Err(refuse(IndexFault::NotInShard { tensor: tensor.clone(), shard: shard.clone() }));
            };
            tensors.push((number, info.clone()));
        }
        for (number, (second, shard)) in numbers.iter().map(|(name, number)| (*number, (*name, &shards[*number]))) {
            for info in shard.tensors() {
                // The index could name either: they must be the same.
                let Some(first) = map.get(&info.name).filter(|first| numbers[first.as_str()] != number) else {
                    continue;
                };
                if !same_content(&shards[numbers[first.as_str()]], shard, info)? {
                    let (tensor, first, second) = (info.name.clone(), first.clone(), second.to_owned());
                    return Err(refuse(IndexFault::TwoContents { tensor, first, second }));
                }
            }
        }
        Ok(Self { path: path.to_path_buf(), shards, tensors })
    }

    /// The path of the file or of the index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the data.
    pub fn shards(&self) -> &[TensorFile] {
        &self.shards
    }

    /// The tensors, in the order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter().map(|(_, info)| info)
    }

    /// The metadata of the first file.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        // There is at least one file: an index without entries is refused.
        self.shards[0].metadata()
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The tensor of that name; the error names the nearest one.
    pub fn info(&self, name: &str) -> Result<&TensorInfo, CheckpointError> {
        self.find(name).map(|(_, info)| info).ok_or_else(|| self.not_found(name))
    }

    /// The stored bytes of a tensor: [`TensorFile::read_bytes`].
    pub fn read_bytes(&self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        self.shard(name)?.read_bytes(name)
    }

    /// Reads a floating-point tensor as `f32`: [`TensorFile::read_f32`].
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> Result<(), CheckpointError> {
        self.shard(name)?.read_f32(name, out)
    }

    /// Reads a floating-point tensor and refuses NaN and infinities: [`TensorFile::read_finite_f32`].
    pub fn read_finite_f32(&self, name: &str, out: &mut [f32]) -> Result<(), CheckpointError> {
        self.shard(name)?.read_finite_f32(name, out)
    }

    /// Reads a tensor of `I64`: [`TensorFile::read_i64`].
    pub fn read_i64(&self, name: &str, out: &mut [i64]) -> Result<(), CheckpointError> {
        self.shard(name)?.read_i64(name, out)
    }

    fn find(&self, name: &str) -> Option<&(usize, TensorInfo)> {
        self.tensors.binary_search_by(|(_, info)| info.name.as_str().cmp(name)).ok().map(|at| &self.tensors[at])
    }

    fn shard(&self, name: &str) -> Result<&TensorFile, CheckpointError> {
        self.find(name).map(|&(shard, _)| &self.shards[shard]).ok_or_else(|| self.not_found(name))
    }

    fn not_found(&self, name: &str) -> CheckpointError {
        not_found(&self.path, name, self.tensors.len(), self.tensors().map(|info| info.name.as_str()))
    }
}

impl TensorSource for WeightFiles {
    fn path(&self) -> &Path {
        &self.path
    }

    fn tensors(&self) -> Box<dyn ExactSizeIterator<Item = StoredTensor<'_>> + '_> {
        Box::new(self.tensors.iter().map(|(_, info)| stored(info)))
    }

    fn find(&self, name: &str) -> Option<StoredTensor<'_>> {
        self.find(name).map(|(_, info)| stored(info))
    }

    fn read_at(&self, name: &str, at: u64, out: &mut [u8]) -> Result<(), CheckpointError> {
        let &(shard, ref info) = self.find(name).ok_or_else(|| self.not_found(name))?;
        check_inside(&self.path, &stored(info), at, out.len())?;
        self.shards[shard].read_at(info, out, at)
    }
}

/// Whether the tensor `second`, of the file `b`, stands in the file `a` with the same type, shape and bytes.
fn same_content(a: &TensorFile, b: &TensorFile, second: &TensorInfo) -> Result<bool, CheckpointError> {
    let first = a.info(&second.name)?;
    if (first.dtype, &first.shape) != (second.dtype, &second.shape) {
        return Ok(false);
    }
    const PIECE: u64 = 64 << 10;
    let (mut of_first, mut of_second) = (vec![0; PIECE as usize], vec![0; PIECE as usize]);
    for at in (0..second.bytes).step_by(PIECE as usize) {
        let length = PIECE.min(second.bytes - at) as usize;
        a.read_at(first, &mut of_first[..length], at)?;
        b.read_at(second, &mut of_second[..length], at)?;
        if of_first[..length] != of_second[..length] {
            return Ok(false);
        }
    }
    Ok(true)
}

fn stored(info: &TensorInfo) -> StoredTensor<'_> {
    StoredTensor { name: &info.name, shape: &info.shape, format: info.dtype.into(), bytes: info.bytes }
}

/// The `weight_map` of an index: tensor name → file name, each file name checked to stay inside the folder.
fn weight_map(index: Value) -> Result<BTreeMap<String, String>, IndexFault> {
    let Value::Object(mut index) = index else { return Err(IndexFault::NoWeightMap) };
    let Some(Value::Object(members)) = index.remove("weight_map") else { return Err(IndexFault::NoWeightMap) };
    if members.is_empty() {
        return Err(IndexFault::Empty);
    }
    if members.len() > MAX_TENSORS {
        return Err(IndexFault::TooManyTensors);
    }
    let mut map = BTreeMap::new();
    for (tensor, shard) in members {
        if tensor.is_empty() {
            return Err(IndexFault::EmptyName);
        }
        let Value::String(shard) = shard else { return Err(IndexFault::ShardNotText(tensor)) };
        if !stays_inside(&shard) {
            return Err(IndexFault::UnsafeShard { tensor, shard });
        }
        map.insert(tensor, shard);
    }
    Ok(map)
}

/// Whether a relative path stays inside the folder to which it is joined, on every system.
fn stays_inside(path: &str) -> bool {
    let foreign = |c: char| matches!(c, '\\' | ':') || c.is_control();
    !path.is_empty()
        && !path.contains(foreign)
        && !path.ends_with('/')
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_stay_inside() {
        for path in ["model-00001-of-00002.safetensors", "sub/a.safetensors", "..a", "a..b"] {
            assert!(stays_inside(path), "{path}");
        }
        for path in ["", "..", "../a", "a/../../b", "a/..", "/etc/passwd", "./a", "a/", "C:a", "a\\..\\b", "a\0b", "\n"]
        {
            assert!(!stays_inside(path), "{path:?}");
        }
    }
}
