//! The world of a lab: a namespace a site with its bridge and the ends of its links, a namespace a
//! node. All devices live in these namespaces and vanish with them; names say whose they are.

use crate::emulator::{Emulator, MTU};
use crate::link::Link;
use crate::node::Node;
use crate::sys;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// All namespaces of all labs start so: `netlab.LAB.PID.COUNT.NAME`.
const PREFIX: &str = "netlab.";
const NAMESPACES: &str = "/run/netns";
/// The bridge's address in 10.s.0.0/24, and the nodes' way out.
const GATEWAY: u8 = 254;

/// Why a lab could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Namespaces and devices are root's.
    #[error("a network lab needs root; run the test as root, or leave this part out")]
    NotRoot,
    /// `ip` refused.
    #[error("ip -batch: {words}\nin\n{batch}")]
    Ip {
        /// What it was told.
        batch: String,
        /// What it said.
        words: String,
    },
    /// A name that cannot be part of a device's name.
    #[error("'{0}' is no name for a lab, site or node: 1 to 10 letters and digits are")]
    Name(String),
    /// A site or node that exists.
    #[error("there is a '{0}' already")]
    Exists(String),
    /// A site that does not exist.
    #[error("there is no site '{0}'")]
    NoSite(String),
    /// 253 nodes a site and 250 sites have addresses.
    #[error("no address is left for '{0}'")]
    Full(String),
    /// The system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A running lab. Dropping it kills what runs inside and removes all of it.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    sites: Vec<Site>,
    links: Vec<(String, String, Emulator)>,
}

#[derive(Debug)]
struct Site {
    name: String,
    namespace: String,
    handle: Arc<File>,
    number: u8,
    nodes: Vec<Node>,
}

impl Lab {
    /// An empty lab. What dead processes left of labs of this name is removed first.
    ///
    /// # Errors
    /// If the caller is not root.
    pub fn new(name: &str) -> Result<Self, LabError> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        check_name(name)?;
        if !sys::is_root() {
            return Err(LabError::NotRoot);
        }
        remove(&|owner| owner.lab == name && !owner.lives())?;
        let count = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{name}.{}.{count}.", std::process::id());
        Ok(Self {
            prefix,
            sites: Vec::new(),
            links: Vec::new(),
        })
    }

    /// Adds a site, linked with each that exists.
    ///
    /// # Errors
    /// If the name is bad or taken, or the system refuses.
    pub fn site(&mut self, name: &str) -> Result<(), LabError> {
        check_name(name)?;
        if self.sites.iter().any(|site| site.name == name) {
            return Err(LabError::Exists(name.to_string()));
        }
        let number = u8::try_from(self.sites.len() + 1)
            .ok()
            .filter(|number| *number <= 250);
        let number = number.ok_or_else(|| LabError::Full(name.to_string()))?;
        let namespace = format!("{}site-{name}", self.prefix);
        let gateway = address(number, GATEWAY);
        ip(None, &format!("netns add {namespace}\n"))?;
        ip(
            Some(&namespace),
            &format!(
                "link set lo up\n\
                 link add br0 mtu {MTU} type bridge\n\
                 address add {gateway}/24 dev br0\n\
                 link set br0 up\n"
            ),
        )?;
        let handle = Arc::new(File::open(Path::new(NAMESPACES).join(&namespace))?);
        let site = Site {
            name: name.to_string(),
            namespace,
            handle,
            number,
            nodes: Vec::new(),
        };
        site.inside(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?;
        for other in &self.sites {
            let emulator = join(other, &site)?;
            self.links
                .push((other.name.clone(), site.name.clone(), emulator));
        }
        self.sites.push(site);
        Ok(())
    }

    /// Adds a node to a site.
    ///
    /// # Errors
    /// If the name is bad or taken anywhere in the lab, or the system refuses.
    pub fn node(&mut self, site: &str, name: &str) -> Result<Node, LabError> {
        check_name(name)?;
        if self.nodes().any(|node| node.name == name) {
            return Err(LabError::Exists(name.to_string()));
        }
        let namespace = format!("{}{name}", self.prefix);
        let known = self.sites.iter_mut().find(|known| known.name == site);
        let site = known.ok_or_else(|| LabError::NoSite(site.to_string()))?;
        let number = u8::try_from(site.nodes.len() + 1)
            .ok()
            .filter(|number| *number < GATEWAY);
        let number = number.ok_or_else(|| LabError::Full(name.to_string()))?;
        let (own, gateway) = (address(site.number, number), address(site.number, GATEWAY));
        ip(None, &format!("netns add {namespace}\n"))?;
        ip(
            Some(&site.namespace),
            &format!(
                "link add to-{name} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {namespace}\n\
                 link set to-{name} master br0 up\n"
            ),
        )?;
        ip(
            Some(&namespace),
            &format!(
                "link set lo up\n\
                 link set eth0 up\n\
                 address add {own}/24 dev eth0\n\
                 route add default via {gateway}\n"
            ),
        )?;
        let handle = Arc::new(File::open(Path::new(NAMESPACES).join(&namespace))?);
        let (name, of) = (name.to_string(), site.name.clone());
        let node = Node {
            name,
            site: of,
            namespace,
            address: own,
            handle,
        };
        site.nodes.push(node.clone());
        Ok(node)
    }

    /// All nodes, site by site.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.sites.iter().flat_map(|site| &site.nodes)
    }

    /// The link between two sites; `Forth` is from the first to the second.
    ///
    /// # Panics
    /// If one of the sites is unknown, or both are the same.
    pub fn link(&self, from: &str, to: &str) -> Link {
        for (a, b, emulator) in &self.links {
            let ends = (a.as_str(), b.as_str());
            let turned = ends == (to, from);
            if turned || ends == (from, to) {
                return Link {
                    shared: Arc::clone(&emulator.shared),
                    turned,
                };
            }
        }
        panic!("there is no link between '{from}' and '{to}'")
    }

    /// Starts a command inside a node.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub fn exec(&self, node: &Node, mut command: Command) -> io::Result<Child> {
        node.place(&mut command);
        command.spawn()
    }

    /// Pulls the cable of one node; [`Self::plug`] puts it back.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn unplug(&self, node: &Node) -> Result<(), LabError> {
        self.switch(node, "down")
    }

    /// Puts the cable of a node back.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn plug(&self, node: &Node) -> Result<(), LabError> {
        self.switch(node, "up")
    }

    fn switch(&self, node: &Node, state: &str) -> Result<(), LabError> {
        let site = self.sites.iter().find(|site| site.name == node.site);
        let site = site.ok_or_else(|| LabError::NoSite(node.site.clone()))?;
        ip(
            Some(&site.namespace),
            &format!("link set to-{} {state}\n", node.name),
        )
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The emulators first: they hold devices of the namespaces.
        self.links.clear();
        let prefix = self.prefix.clone();
        if let Err(error) = remove(&|owner| owner.namespace.starts_with(&prefix))
            && !std::thread::panicking()
        {
            panic!("a lab could not be removed: {error}; try netlab clean");
        }
    }
}

impl Site {
    /// Runs on a thread of its own inside the site.
    fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        use std::os::fd::AsFd;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| sys::enter(self.handle.as_fd()).and_then(|()| work()));
            thread.join().expect("entering a namespace does not panic")
        })
    }
}

/// Removes what labs of dead processes left; with `all`, also the labs that run. Says what.
///
/// # Errors
/// If the system refuses.
pub fn clean(all: bool) -> Result<Vec<String>, LabError> {
    match sys::is_root() {
        true => remove(&|owner| all || !owner.lives()),
        false => Err(LabError::NotRoot),
    }
}

/// Whether a lab can be made at all.
pub fn is_root() -> bool {
    sys::is_root()
}

/// Lays a link between two sites: a TUN device in each, a route to the other, an emulator between.
fn join(a: &Site, b: &Site) -> Result<Emulator, LabError> {
    let mut devices = Vec::new();
    for (here, there) in [(a, b), (b, a)] {
        let name = format!("to-{}", there.name);
        devices.push(here.inside(|| sys::tun(&name))?);
        let network = address(there.number, 0);
        // Long queues: the emulator drops packets where the test says so, the kernel must not.
        ip(
            Some(&here.namespace),
            &format!(
                "link set {name} mtu {MTU} txqueuelen 10000 up\n\
                 route add {network}/24 dev {name}\n"
            ),
        )?;
    }
    let devices = devices.try_into().expect("one device a side");
    Ok(Emulator::start(devices)?)
}

fn address(site: u8, node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, site, 0, node)
}

/// Device names have up to 15 bytes, and get a prefix.
fn check_name(name: &str) -> Result<(), LabError> {
    match (1..=10).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        true => Ok(()),
        false => Err(LabError::Name(name.to_string())),
    }
}

fn ip(inside: Option<&str>, batch: &str) -> Result<(), LabError> {
    let words = |words: String| LabError::Ip {
        batch: batch.to_string(),
        words,
    };
    let mut child = Command::new("ip")
        .args(inside.iter().flat_map(|namespace| ["-netns", namespace]))
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| words(format!("{error}; is iproute2 installed?")))?;
    let mut stdin = child.stdin.take().expect("a pipe was asked for");
    // If ip has ended already, its words say more than the broken pipe.
    let _ = stdin.write_all(batch.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(words(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// Whose a namespace is, from its name.
struct Owner<'a> {
    namespace: &'a str,
    lab: &'a str,
    process: &'a str,
}

impl<'a> Owner<'a> {
    fn of(namespace: &'a str) -> Option<Self> {
        let mut parts = namespace.strip_prefix(PREFIX)?.split('.');
        let (lab, process) = (parts.next()?, parts.next()?);
        process.parse::<u32>().ok()?;
        Some(Self {
            namespace,
            lab,
            process,
        })
    }

    fn lives(&self) -> bool {
        Path::new("/proc").join(self.process).exists()
    }
}

/// Kills what runs in the chosen namespaces, and removes them.
fn remove(chosen: &dyn Fn(&Owner<'_>) -> bool) -> Result<Vec<String>, LabError> {
    let mut removed = Vec::new();
    let Ok(entries) = fs::read_dir(NAMESPACES) else {
        return Ok(removed);
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if Owner::of(&name).is_none_or(|owner| !chosen(&owner)) {
            continue;
        }
        kill_inside(&Path::new(NAMESPACES).join(&name))?;
        match ip(None, &format!("netns delete {name}\n")) {
            // Someone else cleans at the same time.
            Err(_) if !Path::new(NAMESPACES).join(&name).exists() => {}
            other => other?,
        }
        removed.push(name);
    }
    Ok(removed)
}

/// Kills every process whose network namespace this is: only a lab starts any there. This process
/// is spared, should one of its threads be inside.
fn kill_inside(namespace: &Path) -> io::Result<()> {
    use std::os::linux::fs::MetadataExt;
    let identity = |path: &PathBuf| {
        fs::metadata(path)
            .ok()
            .map(|data| (data.st_dev(), data.st_ino()))
    };
    let Some(wanted) = identity(&namespace.to_path_buf()) else {
        return Ok(());
    };
    for entry in fs::read_dir("/proc")? {
        let Some(process) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let inside = identity(&PathBuf::from(format!("/proc/{process}/ns/net"))) == Some(wanted);
        if inside && process != std::process::id() as i32 {
            sys::kill(process)?;
        }
    }
    Ok(())
}
