# LUKS2 above a device of the kernel's: opened for real, its daemon killed, its key rotated; $front_end is set before this.
export DM_DISABLE_UDEV=1
mkdir -p /run/cryptsetup
up
ls_ volume create secret --size 128MiB --copies '*=1' >/dev/null 2>&1
attach secret a1 $front_end
printf 'the first key' >/tmp/first
printf 'the second key' >/tmp/second
# The derivation is made cheap: this machine is slow, and its cost is not what is tested.
kdf="--pbkdf pbkdf2 --pbkdf-force-iterations 1000"

say "formatting"
cryptsetup luksFormat -q --type luks2 --sector-size 4096 $kdf --key-file /tmp/first $device
cryptsetup open --type luks2 --key-file /tmp/first $device clear
mkfs.ext4 -q -E nodiscard /dev/mapper/clear
mount /dev/mapper/clear /mnt
printf 'nobody else reads this' | dd of=/mnt/kept bs=4k conv=sync,fsync 2>/dev/null
dd if=/dev/urandom of=/mnt/more bs=1M count=8 conv=fsync 2>/dev/null
sha256sum /mnt/kept /mnt/more >/tmp/sums
ls_ volume detach secret 2>&1 | grep -q 'in use' || fail "an open device was detached"

say "its daemon killed under load"
for restart in 1 2 3; do
    before=$(epoch secret)
    dd if=/dev/urandom of=/mnt/load bs=64k count=64 conv=fsync 2>/tmp/load &
    load=$!
    sleep 1
    kill_daemon a1
    start_daemon a1
    await 90 "the volume being open again" open_again secret "$before"
    wait $load || fail "a write failed: $(cat /tmp/load)"
done
sync
echo 3 >/proc/sys/vm/drop_caches
sha256sum -c /tmp/sums >/dev/null || fail "other bytes"
umount /mnt
cryptsetup close clear
kernel_is_content

say "what lies on the volume is not what was written"
if dd if=$device bs=1M iflag=direct 2>/dev/null | grep -q 'nobody else reads this'; then fail "it lies there in the clear"; fi

say "a wrong key"
if cryptsetup open --type luks2 --key-file /tmp/second $device clear 2>/tmp/said; then fail "a wrong key opened it"; fi
grep -q 'No key available' /tmp/said || fail "said: $(cat /tmp/said)"
[ ! -e /dev/mapper/clear ] || fail "something is open"

say "rotating the key"
sum() { dd if=$device bs=1M skip=16 iflag=direct 2>/dev/null | sha256sum; }
data=$(sum)
cryptsetup luksChangeKey -q $kdf --key-file /tmp/first $device /tmp/second
[ "$(sum)" = "$data" ] || fail "data was written"
if cryptsetup open --type luks2 --key-file /tmp/first $device clear 2>/dev/null; then fail "the old key opened it"; fi
cryptsetup open --type luks2 --key-file /tmp/second $device clear
mount /dev/mapper/clear /mnt
sha256sum -c /tmp/sums >/dev/null || fail "other bytes"
umount /mnt
cryptsetup close clear
ls_ volume detach secret >/dev/null
lockstep --dir $cluster down >/dev/null
say "done"
