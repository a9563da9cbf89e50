//! The free pages of a key-value cache, and how many sequences hold each of the other pages.

/// The pages of a cache and their holders.
#[derive(Debug)]
pub(crate) struct Pages {
    free: Vec<u32>,
    /// For each page, how many sequences hold it.
    holders: Vec<u32>,
}

impl Pages {
    /// `count` free pages.
    pub(crate) fn new(count: usize) -> Self {
        // Pages are taken from the end of the list, so it is reversed: the first pages are taken first.
        Self { free: (0..count as u32).rev().collect(), holders: vec![0; count] }
    }

    /// How many are free.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// A free page, which then has one holder; none if all are taken.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.holders[page as usize] = 1;
        Some(page)
    }

    /// One more holder of a page.
    pub(crate) fn share(&mut self, page: u32) {
        self.holders[page as usize] += 1;
    }

    /// How many sequences hold a page. If several do, none may write it.
    pub(crate) fn holders(&self, page: u32) -> usize {
        self.holders[page as usize] as usize
    }

    /// One holder fewer; after the last the page is free.
    pub(crate) fn release(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders -= 1;
        if *holders == 0 {
            self.free.push(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_free_after_its_last_holder() {
        let mut pages = Pages::new(2);
        let (a, b) = (pages.take().unwrap(), pages.take().unwrap());
        assert!(a != b && pages.take().is_none());
        pages.share(a);
        assert_eq!((pages.holders(a), pages.holders(b)), (2, 1));
        pages.release(a);
        assert_eq!((pages.holders(a), pages.free()), (1, 0));
        pages.release(a);
        assert_eq!((pages.free(), pages.take()), (1, Some(a)));
    }
}
