//! A CSI driver of one node, as kubelet and the sidecars talk to it: a real process behind its socket.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lockstep_csi::proto;
use lockstep_csi::proto::controller_client::ControllerClient;
use lockstep_csi::proto::node_client::NodeClient;
use proto::volume_capability::access_mode::Mode;
use proto::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::device::is_mounted;
use crate::wait_for;

/// How long the driver may take to listen.
const LISTEN: Duration = Duration::from_secs(20);

/// A driver that runs, and kubelet's folder.
pub struct Driver {
    node: String,
    folder: tempfile::TempDir,
    daemon: PathBuf,
    process: Option<Child>,
    runtime: Runtime,
    channel: Option<Channel>,
}

impl Driver {
    /// The driver of a node, beside the daemon with that data directory.
    pub fn start(daemon: &Path, node: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("lockstep-csi-")
            .tempdir_in("/var/tmp")
            .expect("a directory");
        for made in ["kubelet/staging", "kubelet/pods"] {
            std::fs::create_dir_all(folder.path().join(made)).expect("made");
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let mut driver = Self {
            node: node.to_owned(),
            folder,
            daemon: daemon.to_owned(),
            process: None,
            runtime,
            channel: None,
        };
        driver.run(&[]);
        driver
    }

    /// Starts the process, with these variables besides.
    pub fn run(&mut self, variables: &[(&str, &str)]) {
        assert!(self.process.is_none(), "it runs already");
        let binary = crate::binary().with_file_name("lockstep-csi");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("a log");
        let socket = self.socket();
        let mut command = Command::new(&binary);
        command
            .args(["--node", &self.node, "--endpoint"])
            .arg(&socket)
            .arg("--daemon")
            .arg(&self.daemon)
            .arg("--kubelet-root")
            .arg(self.folder.path().join("kubelet"))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log);
        let started = command.spawn();
        self.process = Some(started.unwrap_or_else(|error| {
            panic!(
                "{}: {error}; cargo build --release -p lockstep-csi",
                binary.display()
            )
        }));
        let uri = format!("unix://{}", socket.display());
        let endpoint = Endpoint::from_shared(uri).expect("a path");
        let channel = wait_for("the driver's socket", LISTEN, || {
            self.runtime.block_on(endpoint.connect()).ok()
        });
        self.channel = Some(channel);
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) {
        self.channel = None;
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("killed");
        process.wait().expect("reaped");
    }

    /// Waits until it has ended by itself.
    pub fn wait_for_end(&mut self) {
        self.channel = None;
        let mut process = self.process.take().expect("it runs");
        wait_for("the driver's end", LISTEN, || {
            process.try_wait().expect("it is ours")
        });
    }

    /// What it said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("csi.sock")
    }

    /// A path below kubelet's folder.
    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join("kubelet").join(below)
    }

    /// Calls the Controller service.
    pub fn controller<T>(
        &self,
        call: impl AsyncFnOnce(ControllerClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        let client = ControllerClient::new(self.channel.clone().expect("it runs"));
        self.runtime
            .block_on(call(client))
            .map(Response::into_inner)
    }

    /// Calls the Node service.
    pub fn node<T>(
        &self,
        call: impl AsyncFnOnce(NodeClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        let client = NodeClient::new(self.channel.clone().expect("it runs"));
        self.runtime
            .block_on(call(client))
            .map(Response::into_inner)
    }

    /// Makes a volume; its id.
    pub fn create(
        &self,
        name: &str,
        bytes: i64,
        capability: &proto::VolumeCapability,
        parameters: &[(&str, &str)],
    ) -> Result<proto::Volume, Status> {
        let request = proto::CreateVolumeRequest {
            name: name.into(),
            capacity_range: Some(proto::CapacityRange {
                required_bytes: bytes,
                limit_bytes: 0,
            }),
            volume_capabilities: vec![capability.clone()],
            parameters: parameters
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..proto::CreateVolumeRequest::default()
        };
        let reply = self.controller(async |mut it| it.create_volume(request).await)?;
        Ok(reply.volume.expect("a volume"))
    }

    /// Attaches a volume to a node; what that node is to be told.
    pub fn publish(
        &self,
        volume: &str,
        node: &str,
        capability: &proto::VolumeCapability,
    ) -> Result<HashMap<String, String>, Status> {
        let request = proto::ControllerPublishVolumeRequest {
            volume_id: volume.into(),
            node_id: node.into(),
            volume_capability: Some(capability.clone()),
            ..proto::ControllerPublishVolumeRequest::default()
        };
        let reply = self.controller(async |mut it| it.controller_publish_volume(request).await)?;
        Ok(reply.publish_context)
    }

    /// Takes a volume from a node.
    pub fn unpublish(&self, volume: &str, node: &str) -> Result<(), Status> {
        let request = proto::ControllerUnpublishVolumeRequest {
            volume_id: volume.into(),
            node_id: node.into(),
            ..proto::ControllerUnpublishVolumeRequest::default()
        };
        self.controller(async |mut it| it.controller_unpublish_volume(request).await)
            .map(drop)
    }

    /// Deletes a volume.
    pub fn delete(&self, volume: &str) -> Result<(), Status> {
        let request = proto::DeleteVolumeRequest {
            volume_id: volume.into(),
            ..proto::DeleteVolumeRequest::default()
        };
        self.controller(async |mut it| it.delete_volume(request).await)
            .map(drop)
    }

    /// Stages a volume at `staging/NAME`.
    pub fn stage(
        &self,
        volume: &str,
        told: &HashMap<String, String>,
        capability: &proto::VolumeCapability,
    ) -> Result<(), Status> {
        self.stage_with(volume, told, capability, &Encryption::default())
    }

    /// As [`Self::stage`], with what an encrypted volume needs.
    pub fn stage_with(
        &self,
        volume: &str,
        told: &HashMap<String, String>,
        capability: &proto::VolumeCapability,
        encryption: &Encryption,
    ) -> Result<(), Status> {
        let staging = self.staging(volume);
        std::fs::create_dir_all(&staging).expect("kubelet makes it");
        let request = proto::NodeStageVolumeRequest {
            volume_id: volume.into(),
            publish_context: told.clone(),
            staging_target_path: staging.display().to_string(),
            volume_capability: Some(capability.clone()),
            secrets: encryption.secrets.clone(),
            volume_context: encryption.context.clone(),
        };
        self.node(async |mut it| it.node_stage_volume(request).await)
            .map(drop)
    }

    /// Takes it off again.
    pub fn unstage(&self, volume: &str) -> Result<(), Status> {
        let request = proto::NodeUnstageVolumeRequest {
            volume_id: volume.into(),
            staging_target_path: self.staging(volume).display().to_string(),
        };
        self.node(async |mut it| it.node_unstage_volume(request).await)
            .map(drop)
    }

    /// Shows a staged volume to a pod; where.
    pub fn mount(
        &self,
        volume: &str,
        pod: &str,
        capability: &proto::VolumeCapability,
        readonly: bool,
    ) -> Result<PathBuf, Status> {
        self.mount_with(volume, pod, (capability, readonly), &HashMap::new())
    }

    /// As [`Self::mount`], with the volume's context.
    pub fn mount_with(
        &self,
        volume: &str,
        pod: &str,
        (capability, readonly): (&proto::VolumeCapability, bool),
        context: &HashMap<String, String>,
    ) -> Result<PathBuf, Status> {
        let target = self.path("pods").join(pod);
        let request = proto::NodePublishVolumeRequest {
            volume_id: volume.into(),
            staging_target_path: self.staging(volume).display().to_string(),
            target_path: target.display().to_string(),
            volume_capability: Some(capability.clone()),
            readonly,
            volume_context: context.clone(),
            ..proto::NodePublishVolumeRequest::default()
        };
        self.node(async |mut it| it.node_publish_volume(request).await)?;
        Ok(target)
    }

    /// Takes it from the pod.
    pub fn unmount(&self, volume: &str, pod: &str) -> Result<(), Status> {
        let request = proto::NodeUnpublishVolumeRequest {
            volume_id: volume.into(),
            target_path: self.path("pods").join(pod).display().to_string(),
        };
        self.node(async |mut it| it.node_unpublish_volume(request).await)
            .map(drop)
    }

    /// Where a volume is staged.
    pub fn staging(&self, volume: &str) -> PathBuf {
        self.path("staging").join(volume)
    }
}

impl Drop for Driver {
    /// Whatever a test that failed has left mounted goes, too.
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
        let below = |folder: &str| std::fs::read_dir(self.path(folder)).into_iter().flatten();
        for entry in below("pods").chain(below("staging")).flatten() {
            while is_mounted(&entry.path()) {
                let mut unmount = Command::new("umount");
                let status = unmount.arg("--lazy").arg(entry.path()).status();
                if !status.is_ok_and(|status| status.success()) {
                    break;
                }
            }
        }
    }
}

/// What an encrypted volume needs beside the rest.
#[derive(Clone, Default)]
pub struct Encryption {
    /// The volume's context.
    pub context: HashMap<String, String>,
    /// The node-stage secret.
    pub secrets: HashMap<String, String>,
}

/// A file system of that kind, for one node.
pub fn mounted(filesystem: &str) -> proto::VolumeCapability {
    capability(
        AccessType::Mount(MountVolume {
            fs_type: filesystem.into(),
            ..MountVolume::default()
        }),
        Mode::SingleNodeWriter,
    )
}

/// A block device, for one node.
pub fn block() -> proto::VolumeCapability {
    capability(AccessType::Block(BlockVolume {}), Mode::SingleNodeWriter)
}

fn capability(access: AccessType, mode: Mode) -> proto::VolumeCapability {
    proto::VolumeCapability {
        access_type: Some(access),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

/// The same for one pod at a time.
pub fn for_one_pod(mut capability: proto::VolumeCapability) -> proto::VolumeCapability {
    capability.access_mode = Some(AccessMode {
        mode: Mode::SingleNodeSingleWriter.into(),
    });
    capability
}
