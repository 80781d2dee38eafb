// Small pictures of 16 by 16, in the colour of the text around them.

const PATHS = {
  overview: "M2 2h5v7H2zM9 2h5v4H9zM9 8h5v6H9zM2 11h5v3H2z",
  guests: "M2 3h12v8H2zM5.5 14h5M8 11v3",
  images: "M8 1.8 14 5v6l-6 3.2L2 11V5zM2 5l6 3 6-3M8 8v6",
  storage: "M2.5 4c0-2.7 11-2.7 11 0s-11 2.7-11 0M2.5 4v8c0 2.7 11 2.7 11 0V4M2.5 8c0 2.7 11 2.7 11 0",
  networks: "M8 5.5V8M3.5 10.5V8h9v2.5M6 1.8h4v3.7H6zM1.8 10.5h3.5V14H1.8zM10.8 10.5h3.5V14h-3.5z",
  groups: "M1.8 1.8h12.4v12.4H1.8zM4.3 4.5h3.2v7H4.3zM9.6 4.5h2.2v2.6H9.6zM9.6 8.9h2.2v2.6H9.6z",
  tasks: "M2 4l1.2 1.2L5.5 3M2 9l1.2 1.2L5.5 8M8 4.2h6M8 9.2h6M8 13.5h6M2.4 13.5h2",
  events: "M2 8h3l2-5 3 10 2-5h2",
  access: "M6 8a2.8 2.8 0 1 0 0-5.6A2.8 2.8 0 0 0 6 8zM1.5 14c0-5 9-5 9 0M11 3.2a2.4 2.4 0 0 1 0 4.4M12 9.8c1.7.5 2.6 2 2.6 4.2",
  audit: "M4 1.8h6l3 3v9.4H4zM10 1.8v3h3M6.2 8h4.6M6.2 11h4.6",
  host: "M2 2.5h12v4.5H2zM2 9h12v4.5H2zM4.5 4.7h.1M4.5 11.2h.1M7 4.7h4.5M7 11.2h4.5",
  bell: "M3.5 11.5h9L11.2 9.6V6.5a3.2 3.2 0 0 0-6.4 0v3.1zM6.6 13.6h2.8M8 1.8v1.4",
  search: "M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10zM10.6 10.6 14 14",
  start: "M4.5 2.8v10.4L13 8z",
  stop: "M3.5 3.5h9v9h-9z",
  pause: "M5 3v10M11 3v10",
  power: "M8 1.8v6M4.6 3.9a5.4 5.4 0 1 0 6.8 0",
  reboot: "M13 8a5 5 0 1 1-1.6-3.7M13.2 1.8v3h-3",
  remove: "M2.5 4h11M6 4V2.2h4V4M4 4l.7 10h6.6L12 4M6.7 6.5v5M9.3 6.5v5",
  more: "M3 8h.1M8 8h.1M13 8h.1",
  add: "M8 2.5v11M2.5 8h11",
  less: "M2.5 8h11",
  back: "M10.5 3.5 6 8l4.5 4.5",
  forth: "M5.5 3.5 10 8l-4.5 4.5",
  close: "M3.5 3.5l9 9M12.5 3.5l-9 9",
  down: "M3.5 6 8 10.5 12.5 6",
  up: "M3.5 10 8 5.5 12.5 10",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  check: "M2.5 8.5 6 12l7.5-8",
  warning: "M8 2 14.5 13.5h-13zM8 6.5v3.2M8 11.6h.1",
  info: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM8 7.4V11M8 5h.1",
  console: "M1.8 2.8h12.4v10.4H1.8zM4.5 6l2.2 2-2.2 2M8.5 10.2h3",
  disk: "M3 2h10v12H3zM8 9.2A2 2 0 1 0 8 5.2a2 2 0 0 0 0 4zM5.2 12h.1",
  camera: "M2 4.5h3l1-1.7h4l1 1.7h3V13H2zM8 11a2.3 2.3 0 1 0 0-4.6A2.3 2.3 0 0 0 8 11z",
  share: "M2 13V9M6 13V5M10 13V7M14 13V3",
  edit: "M2.5 13.5l.7-3L11 2.7l2.3 2.3-7.8 7.8z",
  clone: "M2.5 2.5h7.5V10H2.5zM6 12.5v1h7.5V6h-1",
  upload: "M8 11V2.5M4.5 6 8 2.5 11.5 6M2.5 11v2.5h11V11",
  download: "M8 2.5V11M4.5 7.5 8 11l3.5-3.5M2.5 11v2.5h11V11",
  menu: "M2 4h12M2 8h12M2 12h12",
  sun: "M8 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1",
  moon: "M13.5 9.5A6 6 0 0 1 6.5 2.5a6 6 0 1 0 7 7z",
  language: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM2 8h12M8 2c4.2 4 4.2 8 0 12M8 2C3.8 6 3.8 10 8 14",
  leave: "M6.5 2.5h-4v11h4M6 8h8M11 5l3 3-3 3",
  columns: "M2 2.5h12v11H2zM6 2.5v11M10 2.5v11",
  label: "M2 2.5h6l6 6L8.5 14 2 7.5zM5 5.4h.1",
  key: "M5 13a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM7.2 7.8 13.5 2M10.5 4.8l2 2",
  open: "M9 2.5h4.5V7M13.5 2.5 7.5 8.5M11.5 9.5v4h-9v-9h4",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 16 }: { name: IconName; size?: number }) {
  const filled = name === "start" || name === "stop";
  return (
    <svg className={filled ? "icon filled" : "icon"} width={size} height={size} viewBox="0 0 16 16" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
