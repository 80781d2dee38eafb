# Gives a system that goes on in another one's memory a name and keys of its own: the second part of what makes it one of its own, after its cards
# have their addresses.
#
# $1: its name; $2: its machine id; then two words for each interface: what it is called, and the address that it has been given, - if none.
name=$1
machine=$2
shift 2

have() {
    command -v "$1" >/dev/null 2>&1
}

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

# Somebody may have given the other one more IPv4 addresses than the host knows of.
only_addresses() {
    while [ $# -ge 2 ]; do
        [ "$2" = - ] || only_address "$1" "$2" -
        shift 2
    done
}
only_addresses "$@"

# Whoever keeps leases has to ask for one of its own; without such a program, cards are asked for whose address the host does not know.
if have systemctl && systemctl -q is-active systemd-networkd; then
    try systemctl --no-block restart systemd-networkd
elif have systemctl && systemctl -q is-active NetworkManager; then
    try systemctl --no-block restart NetworkManager
else
    while [ $# -ge 2 ]; do
        interface=$1 given=$2
        shift 2
        if have ifup && ifquery "$interface" >/dev/null 2>&1; then
            ifdown --force "$interface" 2>/dev/null
            try ifup "$interface"
        elif [ "$given" != - ]; then
            continue
        elif have dhclient; then
            try dhclient -1 "$interface"
        elif have udhcpc; then
            try udhcpc -q -n -i "$interface" >/dev/null 2>&1
        fi
    done
fi
exit $status
