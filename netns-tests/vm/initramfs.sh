#!/busybox sh
# The machine's first process: mounts the root, see machine.py. Arguments: guest.sh and what it is to be given.
/busybox mkdir -p /proc /dev /bottom /layer /root
/busybox mount -t devtmpfs dev /dev
for module in /[0-9]*.ko; do
    /busybox insmod "$module"
done
/busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /bottom
/busybox mount -t tmpfs layer /layer
/busybox mkdir /layer/upper /layer/work
/busybox mount -t overlay -o lowerdir=/bottom,upperdir=/layer/upper,workdir=/layer/work root /root
exec /busybox switch_root /root /bin/bash "$@"
