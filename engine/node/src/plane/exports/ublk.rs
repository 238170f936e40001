//! ublk sessions among the exports. As with the others of the kernel's, a session is bound to its publication when it
//! is made (R12), and what this daemon cannot answer before it stops is left to the next one.

use lockstep_frontend::Payload;
use lockstep_types::{AttachmentId, VolumeId};
use lockstep_ublk::uapi::Descriptor;
use lockstep_ublk::{Out, Session};

use super::requests::Gather;
use super::{Action, Connection, Exports, Front};

impl<K: Copy + Ord, G: Gather> Exports<K, G> {
    /// A ublk device of this publication is served from now on.
    pub fn open_ublk(
        &mut self,
        key: K,
        volume: VolumeId,
        attachment: AttachmentId,
        session: Session,
    ) {
        let connection = Connection {
            front: Front::Ublk(Box::new(session)),
            volume: Some(volume),
            attachment: Some(attachment),
            gone: false,
        };
        self.connections.insert(key, connection);
    }

    /// The kernel has a request for a tag. While the daemon stops, it stays unanswered.
    pub fn ublk_received(
        &mut self,
        key: K,
        tag: u16,
        descriptor: &Descriptor,
        payload: Payload,
        out: &mut Vec<Action<K>>,
    ) {
        if self.stopping {
            return;
        }
        self.ublk_step(key, out, |session, outs| {
            session.receive(tag, descriptor, payload, outs);
        });
        self.settle(out);
    }

    /// Everything that is asked of a device fails from now on: it is about to be taken away.
    pub fn ublk_failed(&mut self, key: K, out: &mut Vec<Action<K>>) {
        self.ublk_step(key, out, Session::fail);
    }

    pub(super) fn ublk_step(
        &mut self,
        key: K,
        out: &mut Vec<Action<K>>,
        step: impl FnOnce(&mut Session, &mut Vec<Out>),
    ) {
        let Some(Connection {
            front: Front::Ublk(session),
            ..
        }) = self.connections.get_mut(&key)
        else {
            return;
        };
        let mut outs = Vec::new();
        step(session, &mut outs);
        for item in outs {
            match item {
                Out::Request(request) => self.device_request(key, &request, out),
                Out::Commit { tag, data, result } => out.push(Action::Commit {
                    key,
                    tag,
                    data,
                    result,
                }),
            }
        }
        self.forget_if_done(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use lockstep_frontend::ReadParts;
    use lockstep_logic::io::{AttachmentState, Tag};
    use lockstep_types::{RequestError, Response};
    use lockstep_ublk::uapi::operation;

    const VOLUME: VolumeId = VolumeId::from_u128(1);
    const ATTACHMENT: AttachmentId = AttachmentId::from_u128(2);
    const KEY: u32 = 9;

    struct Buffers;

    impl Gather for Buffers {
        fn gather(&self, payload: Payload) -> Option<Bytes> {
            Some(payload.into_bytes())
        }
    }

    fn exports() -> Exports<u32, Buffers> {
        let mut exports = Exports::new(lockstep_nbd::Limits::default(), Buffers);
        exports.attach(VOLUME, "pg".into(), ATTACHMENT);
        let open = AttachmentState::Open { blocks: 1024 };
        exports.set_state(VOLUME, ATTACHMENT, open, &mut Vec::new());
        exports.open_ublk(KEY, VOLUME, ATTACHMENT, Session::new(4 << 20, false, 4));
        exports
    }

    /// A flush or a write of the first block for tag 1; what the node is asked, and what the kernel is told.
    fn ask(exports: &mut Exports<u32, Buffers>, operation: u8) -> (Vec<Tag>, Vec<i32>) {
        let descriptor = Descriptor {
            operation_and_flags: operation.into(),
            sectors: 8,
            ..Default::default()
        };
        let payload = Payload::from(Bytes::from(vec![7; Session::payload_of(&descriptor)]));
        let mut out = Vec::new();
        exports.ublk_received(KEY, 1, &descriptor, payload, &mut out);
        split(out)
    }

    fn split(actions: Vec<Action<u32>>) -> (Vec<Tag>, Vec<i32>) {
        let (mut asked, mut told) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Client { tag, .. } => asked.push(tag),
                Action::Commit {
                    key: KEY,
                    tag: 1,
                    data,
                    result,
                } => {
                    assert_eq!(data, ReadParts::new());
                    told.push(result);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        (asked, told)
    }

    fn answer(
        exports: &mut Exports<u32, Buffers>,
        tag: Tag,
        result: Result<Response, RequestError>,
    ) -> Vec<i32> {
        let mut out = Vec::new();
        exports.complete(tag, result, &mut out);
        split(out).1
    }

    #[test]
    fn the_kernel_is_told_once_the_node_has_answered() {
        let mut exports = exports();
        let (asked, told) = ask(&mut exports, operation::WRITE);
        assert!(told.is_empty(), "not before the node says so");
        assert_eq!(answer(&mut exports, asked[0], Ok(Response::Done)), [4096]);
        assert_eq!(ask(&mut exports, operation::FLUSH), (vec![], vec![0]));
    }

    #[test]
    fn what_fails_because_the_daemon_stops_is_left_to_the_next_one() {
        let mut exports = exports();
        let (asked, _) = ask(&mut exports, operation::WRITE);
        exports.stop(&mut Vec::new());
        let told = answer(&mut exports, asked[0], Err(RequestError::Fenced));
        assert!(told.is_empty());
        let mut later = Vec::new();
        let descriptor = Descriptor {
            sectors: 8,
            ..Default::default()
        };
        exports.ublk_received(KEY, 2, &descriptor, Payload::new(), &mut later);
        assert!(later.is_empty(), "nothing new is taken either");
    }

    #[test]
    fn an_error_while_the_daemon_goes_on_is_told() {
        let mut exports = exports();
        let (asked, _) = ask(&mut exports, operation::WRITE);
        assert_eq!(
            answer(&mut exports, asked[0], Err(RequestError::Fenced)),
            [-5]
        );
    }
}
