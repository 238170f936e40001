//! FUSE sessions among the exports: block devices of attached volumes. A device outlives the daemon
//! (its keeper holds it), so that it is bound to its attachment when it is made (R12), and a request
//! that this daemon cannot answer before it stops is left to the next one.

use lockstep_frontend::Op;
use lockstep_fuse::{Message, Out, Session};
use lockstep_types::{AttachmentId, VolumeId};

use super::requests::{Gather, Origin};
use super::{Action, Connection, Exports, Front};

impl<K: Copy + Ord, G: Gather> Exports<K, G> {
    /// A device of this publication is served from now on.
    pub fn open_device(
        &mut self,
        key: K,
        volume: VolumeId,
        attachment: AttachmentId,
        session: Session,
    ) {
        let connection = Connection {
            front: Front::Fuse(Box::new(session)),
            volume: Some(volume),
            attachment: Some(attachment),
            gone: false,
        };
        self.connections.insert(key, connection);
    }

    /// A message of the kernel arrived.
    pub fn device_received(&mut self, key: K, message: Message, out: &mut Vec<Action<K>>) {
        self.device_step(key, out, |session, outs| session.receive(message, outs));
        self.settle(out);
    }

    /// Whether to read the device's next message. Not before its volume has been open once under its
    /// attachment: until then the node cannot tell a publication it does not know yet from one that
    /// is gone, and would fail what may wait. And not while the daemon stops.
    pub fn device_wants_more(&self, key: K) -> bool {
        let Some(connection) = self.connections.get(&key) else {
            return false;
        };
        let Front::Fuse(session) = &connection.front else {
            return false;
        };
        let known = connection
            .attachment
            .is_some_and(|id| self.opened.contains(&id));
        known && !self.stopping && !connection.gone && session.wants_more()
    }

    pub(super) fn device_step(
        &mut self,
        key: K,
        out: &mut Vec<Action<K>>,
        step: impl FnOnce(&mut Session, &mut Vec<Out>),
    ) {
        let Some(Connection {
            front: Front::Fuse(session),
            ..
        }) = self.connections.get_mut(&key)
        else {
            return;
        };
        let mut outs = Vec::new();
        step(session, &mut outs);
        for item in outs {
            match item {
                Out::Send(parts) => out.push(Action::Send(key, parts)),
                Out::Request(request) => self.device_request(key, &request, out),
                Out::Ready(agreed) => out.push(Action::DeviceReady(key, agreed)),
                Out::Close(reason) => out.push(Action::DeviceEnded(key, reason.to_string())),
            }
        }
        self.forget_if_done(key);
    }

    pub(super) fn device_request(
        &mut self,
        key: K,
        request: &lockstep_frontend::Request,
        out: &mut Vec<Action<K>>,
    ) {
        let connection = &self.connections[&key];
        let origin = Origin {
            client: key,
            volume: connection
                .volume
                .expect("a device is bound when it is made"),
            attachment: connection
                .attachment
                .expect("a device is bound when it is made"),
        };
        match request.op {
            Op::Flush => {
                let state = self.state_of(origin.volume, origin.attachment);
                self.requests.flush(origin, request.tag, state);
            }
            Op::BlockStatus => unreachable!("the kernel asks for no status"),
            Op::Read | Op::Write | Op::Trim | Op::WriteZeroes => {
                self.requests.begin(origin, request, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use lockstep_frontend::Payload;
    use lockstep_fuse::protocol::{IN_HEADER, Negotiated, init, opcode};
    use lockstep_fuse::{HEAD, Limits, Volume};
    use lockstep_logic::io::{AttachmentState, Tag};
    use lockstep_types::{RequestError, Response};

    const VOLUME: VolumeId = VolumeId::from_u128(1);
    const ATTACHMENT: AttachmentId = AttachmentId::from_u128(2);
    const KEY: u32 = 9;

    struct Buffers;

    impl Gather for Buffers {
        fn gather(&self, payload: Payload) -> Option<Bytes> {
            Some(payload.into_bytes())
        }
    }

    type All = Exports<u32, Buffers>;

    fn exports() -> All {
        let mut exports = Exports::new(lockstep_nbd::Limits::default(), Buffers);
        exports.attach(VOLUME, "pg".into(), ATTACHMENT);
        let volume = Volume {
            name: "pg".into(),
            size: 4 << 20,
            read_only: false,
        };
        let agreed = Negotiated {
            minor: 41,
            flags: init::HAS_RESEND,
        };
        let session = Session::resumed(volume, Limits::default(), agreed, &mut Vec::new());
        exports.open_device(KEY, VOLUME, ATTACHMENT, session);
        exports
    }

    fn state(exports: &mut All, state: AttachmentState) {
        exports.set_state(VOLUME, ATTACHMENT, state, &mut Vec::new());
    }

    /// A read of the first block, as the kernel asks for it.
    fn read(unique: u64) -> Message {
        let mut head = [0; HEAD];
        head[0..4].copy_from_slice(&(HEAD as u32).to_le_bytes());
        head[4..8].copy_from_slice(&opcode::READ.to_le_bytes());
        head[8..16].copy_from_slice(&unique.to_le_bytes());
        head[16..24].copy_from_slice(&2_u64.to_le_bytes());
        head[IN_HEADER + 16..IN_HEADER + 20].copy_from_slice(&4096_u32.to_le_bytes());
        Message {
            head,
            length: HEAD,
            body: Bytes::new(),
        }
    }

    /// What the node is asked, and the errors (positive) the kernel is told.
    fn outcome(actions: Vec<Action<u32>>) -> (Vec<Tag>, Vec<i32>) {
        let (mut asked, mut told) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Client { tag, .. } => asked.push(tag),
                Action::Send(KEY, parts) => {
                    let error = parts[0][4..8].try_into().expect("four bytes");
                    told.push(-i32::from_le_bytes(error));
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        (asked, told)
    }

    fn ask(exports: &mut All) -> Tag {
        let mut actions = Vec::new();
        exports.device_received(KEY, read(7), &mut actions);
        let (asked, told) = outcome(actions);
        assert!(told.is_empty(), "not before the node says so");
        asked[0]
    }

    fn answer(exports: &mut All, tag: Tag, result: Result<Response, RequestError>) -> Vec<i32> {
        let mut actions = Vec::new();
        exports.complete(tag, result, &mut actions);
        outcome(actions).1
    }

    #[test]
    fn nothing_is_read_before_the_volume_was_open_under_its_attachment() {
        let mut exports = exports();
        assert!(
            !exports.device_wants_more(KEY),
            "what waits in the kernel does not fail"
        );
        let other = AttachmentId::from_u128(3);
        let open = AttachmentState::Open { blocks: 1024 };
        exports.set_state(VOLUME, other, open, &mut Vec::new());
        assert!(
            !exports.device_wants_more(KEY),
            "R12: another publication is not its own"
        );
        state(&mut exports, open);
        assert!(exports.device_wants_more(KEY));
        state(&mut exports, AttachmentState::Suspended);
        assert!(
            exports.device_wants_more(KEY),
            "the node holds what comes now"
        );
        let tag = ask(&mut exports);
        let data = Response::Data(vec![(1, None)]);
        assert_eq!(answer(&mut exports, tag, Ok(data)), [0]);
    }

    #[test]
    fn a_fenced_publication_fails_with_eio() {
        let mut exports = exports();
        state(&mut exports, AttachmentState::Open { blocks: 1024 });
        let tag = ask(&mut exports);
        assert_eq!(answer(&mut exports, tag, Err(RequestError::Fenced)), [5]); // R12
    }

    #[test]
    fn what_fails_because_the_daemon_stops_is_left_to_the_next_one() {
        let mut exports = exports();
        state(&mut exports, AttachmentState::Open { blocks: 1024 });
        let (lost, done) = (ask(&mut exports), ask(&mut exports));
        exports.stop(&mut Vec::new());
        assert!(!exports.device_wants_more(KEY));
        assert!(answer(&mut exports, lost, Err(RequestError::NotOpen)).is_empty());
        let data = Response::Data(vec![(1, None)]);
        assert_eq!(
            answer(&mut exports, done, Ok(data)),
            [0],
            "what was done is told"
        );
    }
}
