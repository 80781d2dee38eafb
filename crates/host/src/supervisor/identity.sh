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

# Of the kinds that it had, and no others: an RSA key takes the software processor many seconds.
keys=
if have ssh-keygen; then
    for key in /etc/ssh/ssh_host_*_key; do
        [ -e "$key" ] || continue
        kind=${key#/etc/ssh/ssh_host_}
        rm -f "$key" "$key.pub"
        try ssh-keygen -q -t "${kind%_key}" -N "" -f "$key"
        keys=new
    done
fi
if [ "$keys" ] && have systemctl; then systemctl --no-block try-restart ssh sshd 2>/dev/null; fi

# Somebody may have given the other one more IPv4 addresses than the host knows of.
only_addresses() {
    while [ $# -ge 2 ]; do
        [ "$2" = - ] || only_address "$1" "$2" -
        shift 2
    done
}
only_addresses "$@"

# systemd-networkd takes away what it does not know of when it begins, and has no address until it has been given one, which takes long on a busy host: what the
# host has given stays meanwhile (systemd.network(5), KeepConfiguration). Until the next boot, like all that is in /run.
keep_addresses() {
    while [ $# -ge 2 ]; do
        read -r number <"/sys/class/net/$1/ifindex"
        file=
        while IFS== read -r key value; do
            [ "$key" != NETWORK_FILE ] || file=${value##*/}
        done <"/run/systemd/netif/links/$number"
        if [ "$2" != - ] && [ "$file" ] && mkdir -p "/run/systemd/network/$file.d"; then
            printf '[Network]\nKeepConfiguration=static\n' >"/run/systemd/network/$file.d/60-given.conf"
        fi
        shift 2
    done
}

# Whoever keeps leases has to ask for one of its own; without such a program, cards are asked for whose address the host does not know.
if have systemctl && systemctl -q is-active systemd-networkd; then
    keep_addresses "$@" 2>/dev/null
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
