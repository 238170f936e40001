//! One call at a time on a volume: whoever comes while another is at work is told to come again.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::Status;

/// What calls are at work on. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Serialize {
    busy: Arc<Mutex<BTreeSet<String>>>,
}

/// Ends the turn when it is dropped.
#[derive(Debug)]
pub struct Turn {
    serialize: Serialize,
    key: String,
}

impl Serialize {
    /// Begins a turn on what is called so.
    ///
    /// # Errors
    /// ABORTED while another call has it.
    pub fn begin(&self, key: &str) -> Result<Turn, Status> {
        if !self.busy.lock().insert(key.to_owned()) {
            let words = format!("another call is at work on '{key}'; ask again when it has ended");
            return Err(Status::aborted(words));
        }
        Ok(Turn {
            serialize: self.clone(),
            key: key.to_owned(),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.serialize.busy.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::Serialize;

    #[test]
    fn a_second_call_waits_and_others_do_not() {
        let serialize = Serialize::default();
        let turn = serialize.begin("a").expect("free");
        assert_eq!(
            serialize.begin("a").expect_err("taken").code(),
            tonic::Code::Aborted
        );
        serialize.begin("b").expect("another");
        drop(turn);
        serialize.begin("a").expect("free again");
    }
}
