//! Memory for the values of a plain forward pass: a new vector for each, or buffers that are used again.

/// Where memory for a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// The allocator, each time.
    Fresh,
    /// A pool of the buffers of earlier values.
    Pooled,
}

/// Hands out values and takes them back.
pub(super) struct Tensors {
    memory: Memory,
    free: Vec<Vec<f32>>,
}

impl Tensors {
    pub(super) fn new(memory: Memory) -> Self {
        Self { memory, free: vec![] }
    }

    /// A value of `len` elements: zeros if it is new, arbitrary if it comes from the pool.
    pub(super) fn take(&mut self, len: usize) -> Vec<f32> {
        if self.memory == Memory::Fresh {
            return vec![0.0; len];
        }
        let fits = |(i, value): (usize, &Vec<f32>)| (value.capacity() >= len).then_some((value.capacity(), i));
        let found = self.free.iter().enumerate().filter_map(fits).min();
        let mut value = match found {
            Some((_, i)) => self.free.swap_remove(i),
            // Sequences grow by a token at a time. With capacities that are powers of two, the buffers of a shorter
            // sequence mostly fit.
            None => Vec::with_capacity(len.next_power_of_two()),
        };
        value.resize(len, 0.0);
        value
    }

    /// Takes back a value that is no longer needed.
    pub(super) fn give(&mut self, value: Vec<f32>) {
        if self.memory == Memory::Pooled {
            self.free.push(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_gives_the_smallest_buffer_that_fits() {
        let mut tensors = Tensors::new(Memory::Pooled);
        let (small, large) = (tensors.take(10), tensors.take(100));
        let (at_small, at_large) = (small.as_ptr(), large.as_ptr());
        tensors.give(large);
        tensors.give(small);
        let (second, third) = (tensors.take(16), tensors.take(17));
        assert_eq!((second.as_ptr(), third.as_ptr(), tensors.free.len()), (at_small, at_large, 0));
        let mut fresh = Tensors::new(Memory::Fresh);
        let value = fresh.take(3);
        fresh.give(value);
        assert!(fresh.free.is_empty() && fresh.take(3) == [0.0; 3]);
    }
}
