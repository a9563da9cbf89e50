//! GGUF files made by hand, byte by byte.

/// A text with its length before it.
pub fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// A metadata entry: key, number of the value's type, bytes of the value.
pub fn entry(key: &str, value_type: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&text(key)[..], &value_type.to_le_bytes(), value.as_ref()].concat()
}

/// The bytes of an array: number of the elements' type, how many, the elements.
pub fn array(element_type: u32, count: u64, elements: impl AsRef<[u8]>) -> Vec<u8> {
    [&element_type.to_le_bytes()[..], &count.to_le_bytes(), elements.as_ref()].concat()
}

/// The description of a tensor; the fastest dimension first, as in the file.
pub fn tensor(name: impl AsRef<[u8]>, dimensions: &[u64], number: u32, offset: u64) -> Vec<u8> {
    let sizes: Vec<u8> = dimensions.iter().flat_map(|size| size.to_le_bytes()).collect();
    let rank = (dimensions.len() as u32).to_le_bytes();
    [&text(name)[..], &rank, &sizes, &number.to_le_bytes(), &offset.to_le_bytes()].concat()
}

/// A file in parts, each of which a test may get wrong.
#[derive(Clone)]
pub struct Raw {
    pub magic: [u8; 4],
    pub version: u32,
    /// Instead of the true numbers.
    pub tensor_count: Option<u64>,
    pub entry_count: Option<u64>,
    pub entries: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    pub alignment: usize,
    /// Zeros behind the header and its padding.
    pub data: usize,
}

impl Raw {
    /// A right file of these entries and tensors.
    pub fn new(entries: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            entry_count: None,
            entries: entries.to_vec(),
            tensors: tensors.to_vec(),
            alignment: 32,
            data,
        }
    }

    pub fn header(&self) -> Vec<u8> {
        let mut header = [&self.magic[..], &self.version.to_le_bytes()].concat();
        header.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        header.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        header.extend(self.entries.concat());
        header.extend(self.tensors.concat());
        header
    }

    pub fn build(&self) -> Vec<u8> {
        let mut file = self.header();
        if !self.tensors.is_empty() {
            file.resize(file.len().next_multiple_of(self.alignment) + self.data, 0);
        }
        file
    }
}

/// Two tensors and some metadata: `a` of `f32` `[2, 5]`, `b` of `q4_0` `[3, 32]`.
pub fn small() -> Vec<u8> {
    let entries = [
        entry("general.architecture", 8, text("llama")),
        entry("llama.block_count", 4, 2u32.to_le_bytes()),
        entry("tokenizer.ggml.tokens", 9, array(8, 3, [text("<s>"), text("ä"), text("")].concat())),
        entry("tokenizer.ggml.scores", 9, array(6, 2, [0u8; 8])),
        entry("tokenizer.ggml.add_bos_token", 7, [1]),
        entry("nested", 9, array(9, 2, [array(5, 1, [7, 0, 0, 0]), array(8, 1, text("x"))].concat())),
    ];
    let tensors = [tensor("a", &[5, 2], 0, 0), tensor("b", &[32, 3], 2, 64)];
    let mut file = Raw::new(&entries, &tensors, 64 + 64).build();
    let start = file.len() - 128;
    for (at, byte) in file[start..].iter_mut().enumerate().filter(|(at, _)| *at < 40 || (64..118).contains(at)) {
        *byte = at as u8 + 1;
    }
    file
}
