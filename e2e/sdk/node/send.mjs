// Sends events with @segment/analytics-node as it ships: nothing is set but where to send and with which key.
//
//   node send.mjs RUN COUNT RATE     with PENSTOCK_INGEST_URL and PENSTOCK_WRITE_KEY set
//
// RATE is in events per second. Prints one line of JSON: how many events each call made, how many were acknowledged
// by the callback of their call, and what the callbacks and the error listener were given.
import { Analytics } from '@segment/analytics-node';

const [run, count, rate] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const { PENSTOCK_INGEST_URL: host, PENSTOCK_WRITE_KEY: writeKey } = process.env;
if (!run || !(count > 0) || !(rate > 0) || !host || !writeKey) {
  console.error('usage: PENSTOCK_INGEST_URL=… PENSTOCK_WRITE_KEY=… node send.mjs RUN COUNT RATE');
  process.exit(2);
}

const analytics = new Analytics({ writeKey, host, path: '/segment/v1/batch' });
const errors = [];
const failed = (error) => errors.push(String(error?.reason?.message ?? error?.reason ?? error?.message ?? error));
analytics.on('error', failed);

let acknowledged = 0;
const made = {};
const send = {
  track: (who, number, done) =>
    analytics.track({ ...who, event: 'Order Completed', properties: { number, run, total: number / 100 } }, done),
  page: (who, number, done) => analytics.page({ ...who, name: 'Start', properties: { number, run } }, done),
  screen: (who, number, done) => analytics.screen({ ...who, name: 'Start', properties: { number, run } }, done),
  identify: (who, number, done) => analytics.identify({ ...who, traits: { number, run } }, done),
  group: (who, number, done) => analytics.group({ ...who, groupId: 'g', traits: { number, run } }, done),
};
const others = Object.keys(send).filter((call) => call !== 'track');

const started = performance.now();
for (let number = 0; number < count; number += 1) {
  const due = started + (number / rate) * 1000 - performance.now();
  if (due > 1) await new Promise((resolve) => setTimeout(resolve, due));
  // One in five is no track call.
  const call = number % 5 === 4 ? others[Math.floor(number / 5) % others.length] : 'track';
  const who = { userId: `user-${number % 97}`, anonymousId: run };
  made[call] = (made[call] ?? 0) + 1;
  send[call](who, number, (error) => {
    if (error) failed(error);
    else acknowledged += 1;
  });
}
const paced = (performance.now() - started) / 1000;
await analytics.closeAndFlush({ timeout: 60_000 });
console.log(JSON.stringify({ made, enqueued: count, acknowledged, errors, seconds: paced }));
