//! The machine itself: it boots, it has what it is for, and its script's end is told.

use std::time::Duration;

use vm::{Guest, Kernel, Release, possible};

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn the_kernel_has_what_the_host_may_lack() {
    if !possible() {
        return;
    }
    let script = "set -e
        uname -r
        test -c /dev/ublk-control
        test -b /dev/nbd0
        test -e /dev/mapper/control
        mount | grep /var/tmp
        exit 17";
    for release in [Release::Stable, Release::Newest] {
        let kernel = Kernel::fetch(release).expect("Debian's kernel");
        println!("{}", kernel.version());
        let outcome = Guest::new(kernel, script)
            .with_modules(&["ublk_drv", "nbd", "dm-crypt"])
            .with_disk(64 << 20)
            .run(PATIENCE)
            .expect("a machine");
        assert_eq!(outcome.code, Some(17), "{}", outcome.console);
        println!("booted and ended in {:?}", outcome.took);
    }
}
