# One front-end's device, from its making to its end. Set before this: $front_end, $asked (what is asked for: that, or
# "device", the best), $grows, $restarts.
up
say "attaching"
ls_ volume create pg --size 256MiB --copies '*=1' >/dev/null 2>&1
attach pg a1 $asked
ls_ volume attach pg --front-end device
[ "$(field front_end </tmp/attached)" = $front_end ] || fail "it is another front-end: $(cat /tmp/attached)"
attach pg a1 $asked

say "limits"
for limit in logical_block_size physical_block_size fua write_cache discard_granularity discard_max_bytes write_zeroes_max_bytes max_hw_sectors_kb; do
    echo "$limit $(cat $block/queue/$limit)"
done
[ "$(cat $block/queue/logical_block_size)" = 4096 ] || fail "blocks"
[ "$(cat $block/queue/discard_max_bytes)" -gt 0 ] || fail "no discard"
[ "$(cat $block/queue/write_zeroes_max_bytes)" -gt 0 ] || fail "no write zeroes"
[ "$(cat $block/queue/write_cache)" = "write back" ] || fail "no flush"
[ "$(cat $block/queue/fua)" = 1 ] || fail "no FUA"
[ "$(blockdev --getsize64 $device)" = 268435456 ] || fail "size"

say "writes, verified"
fio --eta=never --name=raw --filename=$device --rw=randwrite --bs=4k --size=8M --iodepth=16 --ioengine=libaio --direct=1 \
    --verify=crc32c --verify_fatal=1 --fsync=256 --output=/tmp/fio || { cat /tmp/fio; fail "fio"; }
grep -E 'write:|read:' /tmp/fio
fio --eta=never --name=large --filename=$device --rw=write --bs=1M --offset=32M --size=16M --iodepth=4 --ioengine=libaio --direct=1 \
    --verify=crc32c --verify_fatal=1 --output=/tmp/fio || { cat /tmp/fio; fail "fio"; }
grep -E 'write:|read:' /tmp/fio

say "discard and zeroes"
blkdiscard --offset 33554432 --length 8388608 $device
blkdiscard --zeroout --offset 41943040 --length 4194304 $device
dd if=$device bs=1M skip=32 count=12 iflag=direct 2>/dev/null | cmp -n 12582912 - /dev/zero || fail "what was discarded is not zero"
dd if=$device bs=1M skip=44 count=1 iflag=direct 2>/dev/null | cmp -s -n 1048576 - /dev/zero && fail "more was discarded than was asked for"

say "FUA and flush"
flushes() { awk '{print $16}' $block/stat; }
before=$(flushes)
dd if=/dev/zero of=$device bs=4k count=4 oflag=direct,sync conv=notrunc 2>/dev/null
dd if=/dev/zero of=$device bs=4k count=1 seek=9 conv=notrunc,fsync 2>/dev/null
[ "$(flushes)" -gt "$before" ] || fail "nothing was flushed"

say "ext4"
mkfs.ext4 -q -E nodiscard $device
mount -o discard $device /mnt
dd if=/dev/urandom of=/mnt/kept bs=1M count=8 2>/dev/null
sync
sha256sum /mnt/kept >/tmp/sum
ls_ volume detach pg 2>&1 | grep -q 'in use' || fail "a mounted device was detached"

if [ $grows = yes ]; then
    say "growing while it is mounted"
    ls_ volume resize pg --size 320MiB >/dev/null
    grown() { [ "$(blockdev --getsize64 $device)" = 335544320 ]; }
    await 30 "growing" grown
    resize2fs $device >/dev/null 2>&1 || fail "resize2fs"
    [ "$(df -m /mnt | awk 'END { print $2 }')" -gt 270 ] || fail "the file system has not grown"
fi

say "$restarts restarts under load"
rm -f /tmp/stop
(
    rounds=0
    while [ ! -e /tmp/stop ]; do
        fio --eta=never --name=load --directory=/mnt --rw=randwrite --bs=4k --size=6M --iodepth=16 --ioengine=libaio --direct=1 \
            --verify=crc32c --verify_fatal=1 --end_fsync=1 --output=/tmp/load.out || { cat /tmp/load.out; echo failed >/tmp/load; exit 1; }
        rounds=$((rounds + 1))
    done
    echo "$rounds rounds of fio" >/tmp/load
) &
load=$!
longest=0
for restart in $(seq $restarts); do
    sleep 1
    before=$(epoch pg)
    begin=$(cut -d. -f1 /proc/uptime)
    kill_daemon a1
    start_daemon a1
    await 90 "the volume being open again" open_again pg "$before"
    dd if=/dev/zero of=/mnt/probe bs=4k count=1 oflag=direct,sync conv=notrunc 2>/dev/null || fail "a write failed"
    took=$(($(cut -d. -f1 /proc/uptime) - begin))
    [ $took -le $longest ] || longest=$took
    [ ! -e /tmp/load ] || fail "fio failed"
done
touch /tmp/stop
wait $load || fail "fio failed"
say "$restarts restarts, $(cat /tmp/load), the longest pause $longest s"
sha256sum -c /tmp/sum >/dev/null || fail "the file has other bytes"
umount /mnt
e2fsck -fn $device >/tmp/fsck 2>&1 || { cat /tmp/fsck; fail "e2fsck"; }
kernel_is_content

say "detaching"
ls_ volume detach pg >/dev/null
[ ! -e /dev/lockstep/pg ] || fail "the link is still there"
[ -z "$(find $cluster/a1/devices -type f)" ] || fail "something of it is still kept"

say "published elsewhere meanwhile"
attach pg a1 $front_end
dd if=/dev/zero of=$device bs=4k count=1 oflag=direct conv=notrunc 2>/dev/null
kill_daemon a1
printf 'late' | dd of=$device bs=4k count=1 conv=sync,notrunc oflag=direct 2>/tmp/late &
late=$!
detached() { ls_ volume detach pg; }
await 60 "detaching" detached
attached() { ls_ volume attach pg --node b1; }
await 60 "attaching in the other site" attached
kill -0 $late || fail "a write did not wait for its daemon"
start_daemon a1
if wait $late; then fail "R12: a late write was carried out"; fi
gone() { [ ! -e /dev/lockstep/pg ]; }
await 30 "the old device going" gone
attach pg b1 $front_end
dd if=$device bs=4k count=1 iflag=direct 2>/dev/null | cmp -n 4096 - /dev/zero || fail "the late write is there"

say "down"
lockstep --dir $cluster down >/dev/null
[ ! -e /dev/lockstep ] || fail "a link is left"
for left in /sys/block/nbd*/pid /sys/block/ublkb*; do
    [ ! -e $left ] || fail "$left is left"
done
say "done"
