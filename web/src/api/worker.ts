// Where the stream is read.

import { serve, type Wanted } from "./stream";

const wanted = serve((told, hand = []) => self.postMessage(told, { transfer: hand }));
self.onmessage = (event: MessageEvent<Wanted>) => wanted(event.data);
