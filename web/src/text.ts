// All words of the page. `zh` has exactly the keys of `en`: the type check fails where one is missing.

const en = {
  guests: "Guests", search: "Search: name, state:running, label:key=value", name: "Name", state: "State", cpus: "CPUs",
  memory: "Memory", labels: "Labels", start: "Start", shutdown: "Shut down", stop: "Stop", remove: "Delete", reboot: "Reboot",
  pause: "Pause", resume: "Resume", selected: "{n} selected", shown: "{n} of {all} guests", cancel: "Cancel",
  none: "No guests yet", teach: "Make the first one on the command line; it appears here at once.", nothing: "No guest matches this search.",
  connecting: "Connecting…", live: "Live", lost: "Connection lost; trying again…", refused: "Not logged in",
  login: "Open this page as root on the host itself, at its loopback address. Other users reach the API with a token.",
  stopped: "Stopped", starting: "Starting", running: "Running", paused: "Paused", stopping: "Stopping", crashed: "Crashed",
  console: "Console", definition: "Definition", since: "Since", absent: "There is no such guest.", again: "Connect again",
  off: "The guest does not run; this is what it said last.", ended: "The console's connection ended.", all: "Select all",
  lose: "This deletes {n} guests and their own disks. It cannot be undone.", cut: "This cuts the power of {n} guests. What they have not written is lost.",
  language: "中文", select: "Select {name}", skip: "Skip to content", description: "Description", restart: "Takes effect at the next start",
};

export type Key = keyof typeof en;

const zh: Record<Key, string> = {
  guests: "虚拟机", search: "搜索：名称、state:running、label:键=值", name: "名称", state: "状态", cpus: "处理器",
  memory: "内存", labels: "标签", start: "启动", shutdown: "关机", stop: "强制停止", remove: "删除", reboot: "重启",
  pause: "暂停", resume: "继续", selected: "已选 {n} 台", shown: "{n} / {all} 台虚拟机", cancel: "取消",
  none: "还没有虚拟机", teach: "用命令行创建第一台，它会立即显示在这里。", nothing: "没有符合搜索条件的虚拟机。",
  connecting: "正在连接…", live: "实时", lost: "连接已断开，正在重试…", refused: "未登录",
  login: "请以 root 身份在主机本地的回环地址打开此页面。其他用户可用令牌访问 API。",
  stopped: "已停止", starting: "启动中", running: "运行中", paused: "已暂停", stopping: "停止中", crashed: "已崩溃",
  console: "控制台", definition: "定义", since: "自", absent: "没有这台虚拟机。", again: "重新连接",
  off: "虚拟机未运行；以下是它最后的输出。", ended: "控制台连接已结束。", all: "全选",
  lose: "将删除 {n} 台虚拟机及其自有磁盘，无法撤销。", cut: "将切断 {n} 台虚拟机的电源，未写入的数据会丢失。",
  language: "English", select: "选择 {name}", skip: "跳到内容", description: "说明", restart: "下次启动时生效",
};

export type Language = "en" | "zh";

export const language: Language =
  (localStorage.getItem("language") ?? navigator.language).startsWith("zh") ? "zh" : "en";

export function t(key: Key, values: Record<string, string | number> = {}): string {
  return (language === "zh" ? zh : en)[key].replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

export function switchLanguage(): void {
  localStorage.setItem("language", language === "zh" ? "en" : "zh");
  location.reload();
}

export function bytes(n: number): string {
  const step = n >= 2 ** 40 ? 4 : n >= 2 ** 30 ? 3 : n >= 2 ** 20 ? 2 : n >= 1024 ? 1 : 0;
  const unit = ["B", "KiB", "MiB", "GiB", "TiB"][step] ?? "B";
  return `${new Intl.NumberFormat(language, { maximumFractionDigits: 1 }).format(n / 1024 ** step)} ${unit}`;
}
