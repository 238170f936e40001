//! Stands in for rust-protobuf 2: the few methods of its `Message` trait that raft calls, for every
//! prost message.
#![forbid(unsafe_code)]

/// Why bytes are not the message they should be.
pub type ProtobufError = prost::DecodeError;

/// What raft asks of a message beside its fields.
pub trait Message: prost::Message + Default {
    /// Encoded length in bytes. raft's messages stay far below 4 GiB; a longer one counts as that.
    fn compute_size(&self) -> u32 {
        u32::try_from(self.encoded_len()).unwrap_or(u32::MAX)
    }

    /// The encoded bytes. Never fails; raft expects a `Result`.
    fn write_to_bytes(&self) -> Result<Vec<u8>, ProtobufError> {
        Ok(self.encode_to_vec())
    }

    /// Merges encoded bytes into `self`.
    fn merge_from_bytes(&mut self, bytes: &[u8]) -> Result<(), ProtobufError> {
        self.merge(bytes)
    }
}

impl<M: prost::Message + Default> Message for M {}
