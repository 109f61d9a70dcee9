//! A bound on the work that a record can ask for.

/// Bytes and entries that may still be looked at.
///
/// An honest update needs a few times the size of its functions; a forged record could make every function
/// try thousands of candidates, with the kernel's mutexes held.
#[derive(Clone, Copy, Debug)]
pub struct Budget(u64);

impl Budget {
    /// Enough for every update that fits in a record: a second of work.
    pub const LOAD: Budget = Budget(1 << 28);

    /// A budget of `steps`.
    pub fn new(steps: u64) -> Self {
        Budget(steps)
    }

    /// Takes `steps`; `false` once there are not that many.
    pub fn spend(&mut self, steps: usize) -> bool {
        match self.0.checked_sub(steps as u64) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => {
                self.0 = 0;
                false
            }
        }
    }
}
