//! Field accessors in rust-protobuf's style: those that raft calls, and no others.

use bytes::Bytes;

use crate::eraftpb::*;

/// `get_` and, where named, `set_`, for fields that are plain numbers.
macro_rules! numbers {
    ($message:ident { $($field:ident : $ty:ty => $get:ident, $set:ident;)* }) => {
        impl $message {
            $(
                /// Reads the field.
                #[inline]
                pub fn $get(&self) -> $ty {
                    self.$field
                }
                /// Replaces the field.
                #[inline]
                pub fn $set(&mut self, value: $ty) {
                    self.$field = value;
                }
            )*
        }
    };
}

/// `get_` for enums, which prost keeps as numbers (it makes `set_` itself). An unknown number reads
/// as the first.
macro_rules! enums {
    ($message:ident { $($field:ident : $ty:ident => $get:ident;)* }) => {
        impl $message {
            $(
                /// Reads the field.
                #[inline]
                pub fn $get(&self) -> $ty {
                    $ty::try_from(self.$field).unwrap_or_default()
                }
            )*
        }
    };
}

/// `get_`, `set_`, `mut_` and `take_` for byte strings and lists.
macro_rules! collections {
    ($message:ident { $($field:ident : $ty:ty as $slice:ty => $get:ident, $set:ident, $edit:ident, $take:ident;)* }) => {
        impl $message {
            $(
                /// Reads the field.
                #[inline]
                pub fn $get(&self) -> &$slice {
                    &self.$field
                }
                /// Replaces the field.
                #[inline]
                pub fn $set(&mut self, value: $ty) {
                    self.$field = value;
                }
                /// The field, to be changed in place.
                #[inline]
                pub fn $edit(&mut self) -> &mut $ty {
                    &mut self.$field
                }
                /// Takes the field, leaving it empty.
                #[inline]
                pub fn $take(&mut self) -> $ty {
                    core::mem::take(&mut self.$field)
                }
            )*
        }
    };
}

/// `get_` (a default if absent), `set_`, `mut_`, `take_`, `has_` for messages in messages.
macro_rules! messages {
    ($message:ident { $field:ident : $ty:ident => $get:ident, $set:ident, $edit:ident, $take:ident, $has:ident }) => {
        impl $message {
            /// Reads the field; absent reads as empty.
            #[inline]
            pub fn $get(&self) -> &$ty {
                static EMPTY: $ty = $ty::EMPTY;
                self.$field.as_ref().unwrap_or(&EMPTY)
            }
            /// Replaces the field.
            #[inline]
            pub fn $set(&mut self, value: $ty) {
                self.$field = Some(value);
            }
            /// The field, created if absent, to be changed in place.
            #[inline]
            pub fn $edit(&mut self) -> &mut $ty {
                self.$field.get_or_insert_with(Default::default)
            }
            /// Takes the field, leaving it absent.
            #[inline]
            pub fn $take(&mut self) -> $ty {
                self.$field.take().unwrap_or_default()
            }
            /// Whether the field is there.
            #[inline]
            pub fn $has(&self) -> bool {
                self.$field.is_some()
            }
        }
    };
}

impl ConfState {
    const EMPTY: Self = Self {
        voters: Vec::new(),
        learners: Vec::new(),
        voters_outgoing: Vec::new(),
        learners_next: Vec::new(),
        auto_leave: false,
    };
}

impl SnapshotMetadata {
    const EMPTY: Self = Self {
        conf_state: None,
        index: 0,
        term: 0,
    };
}

impl Snapshot {
    const EMPTY: Self = Self {
        data: Bytes::new(),
        metadata: None,
    };

    /// Whether it stands for nothing: a real snapshot has an index above 0.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.get_metadata().index == 0
    }
}

enums!(Entry { entry_type: EntryType => get_entry_type; });
numbers!(Entry {
    term: u64 => get_term, set_term;
    index: u64 => get_index, set_index;
});
collections!(Entry {
    data: Bytes as [u8] => get_data, set_data, mut_data, take_data;
    context: Bytes as [u8] => get_context, set_context, mut_context, take_context;
});

collections!(ConfState {
    voters: Vec<u64> as [u64] => get_voters, set_voters, mut_voters, take_voters;
    learners: Vec<u64> as [u64] => get_learners, set_learners, mut_learners, take_learners;
    voters_outgoing: Vec<u64> as [u64] => get_voters_outgoing, set_voters_outgoing, mut_voters_outgoing, take_voters_outgoing;
    learners_next: Vec<u64> as [u64] => get_learners_next, set_learners_next, mut_learners_next, take_learners_next;
});

messages!(SnapshotMetadata {
    conf_state: ConfState => get_conf_state, set_conf_state, mut_conf_state, take_conf_state, has_conf_state
});
messages!(Snapshot {
    metadata: SnapshotMetadata => get_metadata, set_metadata, mut_metadata, take_metadata, has_metadata
});

enums!(Message { msg_type: MessageType => get_msg_type; });
numbers!(Message {
    index: u64 => get_index, set_index;
    commit: u64 => get_commit, set_commit;
});
collections!(Message {
    entries: Vec<Entry> as [Entry] => get_entries, set_entries, mut_entries, take_entries;
    context: Bytes as [u8] => get_context, set_context, mut_context, take_context;
});
messages!(Message { snapshot: Snapshot => get_snapshot, set_snapshot, mut_snapshot, take_snapshot, has_snapshot });

enums!(ConfChange { change_type: ConfChangeType => get_change_type; });
enums!(ConfChangeSingle { change_type: ConfChangeType => get_change_type; });
enums!(ConfChangeV2 { transition: ConfChangeTransition => get_transition; });
collections!(ConfChangeV2 {
    changes: Vec<ConfChangeSingle> as [ConfChangeSingle] => get_changes, set_changes, mut_changes, take_changes;
});
