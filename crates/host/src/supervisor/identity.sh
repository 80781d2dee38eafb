# Makes a system that goes on in another one's memory one of its own.
#
# $1: its name; $2: its machine id; $3: what nobody else knows, for its random numbers; then for each network card the hardware address
# that the system knows, and the one that the card has now.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH
name=$1
machine=$2
printf '%s' "$3" >/dev/urandom
shift 3
status=0

have() {
    command -v "$1" >/dev/null 2>&1
}

try() {
    "$@" || { echo "cannot: $*" >&2; status=1; }
}

# The cards first: nothing that it sends passes before.
interfaces=
while [ $# -ge 2 ]; do
    for place in /sys/class/net/*; do
        # Not what is made over a card and has its address.
        [ -e "$place/device" ] && [ "$(cat "$place/address")" = "$1" ] || continue
        interface=${place##*/}
        interfaces="$interfaces $interface"
        up=$(cat "$place/flags")
        # What it was given belongs to the other one.
        try ip address flush dev "$interface" scope global
        try ip link set dev "$interface" down
        try ip link set dev "$interface" address "$2"
        if [ $((up & 1)) = 1 ]; then try ip link set dev "$interface" up; fi
    done
    shift 2
done

try hostname "$name"
if [ -e /etc/hostname ]; then echo "$name" >/etc/hostname; fi
if [ -e /etc/hosts ]; then try sed -i "s/^127\.0\.1\.1[[:space:]].*/127.0.1.1 $name/" /etc/hosts; fi
for file in /etc/machine-id /var/lib/dbus/machine-id; do
    if [ -s "$file" ] && [ ! -h "$file" ]; then echo "$machine" >"$file" || status=1; fi
done

if ls /etc/ssh/ssh_host_*_key >/dev/null 2>&1 && have ssh-keygen; then
    rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
    try ssh-keygen -q -A
    if have systemctl; then systemctl --no-block try-restart ssh sshd 2>/dev/null; fi
fi

# An address for each card that had one.
if have systemctl && systemctl -q is-active systemd-networkd; then
    try systemctl --no-block restart systemd-networkd
elif have systemctl && systemctl -q is-active NetworkManager; then
    try systemctl --no-block restart NetworkManager
else
    for interface in $interfaces; do
        if have ifup && ifquery "$interface" >/dev/null 2>&1; then
            ifdown --force "$interface" 2>/dev/null
            try ifup "$interface"
        elif have dhclient; then
            try dhclient -1 "$interface"
        elif have udhcpc; then
            try udhcpc -q -n -i "$interface" >/dev/null 2>&1
        fi
    done
fi
exit $status
