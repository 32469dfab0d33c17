// The left side of the page: a body in three dimensions (body.js), a video's
// frames in step with it, and the files that are given.
//
// Runs inside Gradio's HTML component, behind body.js: `element` is what
// stage.html has become, `props.value` what clip.as_shown tells, or what is wrong
// with a file that was given. It raises 'given' with a ticket for a file that was
// read, 'removed' with a medium and 'example' with a number.

const find = (selector) => element.querySelector(selector);
const view = find('.view');
const canvas = find('canvas');
const now = find('img.now');
const frames = find('.frames');
const legend = find('.legend');
const controls = find('.controls');
const play = find('.play');
const time = find('.time');
const clock = find('.clock');
const speed = find('.speed');
const follow = find('.follow input');
const again = find('.again');
const status = find('.status');
const failed = find('.failed');
const file = find('input[type=file]');

// --- What is shown -----------------------------------------------------------

// Of a clip: `body`, or null; `pictures`; `T` moments in `seconds`.
let clip = null;
let at = 0; // seconds into it
let playing = 0; // of requestAnimationFrame; 0 while it stands still
let last = 0; // when the last picture was asked for, milliseconds
let drawn = ''; // what it showed
const START = {turn: 0.52, lift: 0.28, near: 1};
const camera = {...START, follows: true};

function show({motion, frames: pictures = [], seconds, names, notes}) {
  stop();
  const body = motion ? decode(motion) : null;
  const T = body ? body.T : pictures.length;
  clip = T ? {body, pictures, T, seconds} : null;
  at = 0;
  drawn = '';
  view.classList.toggle('motion', !!body);
  view.classList.toggle('video', pictures.length > 0);
  canvas.hidden = find('.follow').hidden = !body;
  now.hidden = frames.hidden = legend.hidden = !pictures.length;
  controls.hidden = !clip;
  find('.empty').hidden = !!clip;
  frames.replaceChildren(...pictures.map(thumbnail));
  legend.textContent =
    `The ${pictures.length} frames that the model sees of the video, ` +
    'evenly spread from its first to its last.';
  find('.given').replaceChildren(
    ...Object.entries(names).map(chip),
    ...notes.map(note),
  );
  const what = [
    body && `a motion of ${seconds.toFixed(1)} seconds`,
    pictures.length && `a video of ${pictures.length} frames`,
  ].filter(Boolean);
  const shown = `Shown: ${what.join(' and ') || 'nothing'}.`;
  find('.stage').setAttribute('aria-label', shown);
  // Who opens the page need not hear that it is empty.
  if (clip || find('.shown').textContent) find('.shown').textContent = shown;
  if (!clip) return;
  time.max = T - 1;
  canvas.setAttribute(
    'aria-label',
    `A motion of ${seconds.toFixed(1)} seconds. Space plays, arrow keys go ` +
      'through time, with shift they turn the view, plus and minus zoom.',
  );
  Object.assign(camera, START);
  draw();
  if (!matchMedia('(prefers-reduced-motion: reduce)').matches) start();
}

function thumbnail(url, i) {
  const item = document.createElement('li');
  const button = document.createElement('button');
  const image = document.createElement('img');
  const seconds = seconds_of(i);
  button.type = 'button';
  button.setAttribute('aria-label', `Frame ${i + 1} of the video`);
  button.addEventListener('click', () => {
    stop();
    seek(seconds);
  });
  image.src = url;
  image.alt = '';
  button.append(image, clip.body ? seconds.toFixed(1) : `${i + 1}`);
  item.append(button);
  return item;
}

// Of a frame of the video: the first is at the first moment, the last at the
// last.
function seconds_of(i) {
  const end = clip.seconds * (1 - 1 / clip.T);
  return (end * i) / Math.max(1, clip.pictures.length - 1);
}

function chip([medium, name]) {
  const whole = document.createElement('span');
  const button = document.createElement('button');
  whole.className = 'chip';
  button.type = 'button';
  button.textContent = '×';
  button.setAttribute('aria-label', `Remove the ${medium}`);
  button.addEventListener('click', () => {
    say('');
    trigger('removed', {medium});
  });
  whole.append(`${medium}: ${name} `, button);
  return whole;
}

function note(text) {
  const line = document.createElement('p');
  line.className = 'note';
  line.textContent = text;
  return line;
}

// --- Time --------------------------------------------------------------------

function start() {
  if (!clip || playing) return;
  play.setAttribute('aria-label', 'Pause');
  play.classList.add('on');
  last = 0;
  playing = requestAnimationFrame(step);
}

function stop() {
  cancelAnimationFrame(playing);
  playing = 0;
  play.setAttribute('aria-label', 'Play');
  play.classList.remove('on');
}

function step(moment) {
  // A picture may be dated before what has asked for it.
  if (last) at = (at + ((moment - last) / 1000) * speed.value) % clip.seconds;
  last = moment;
  draw();
  playing = requestAnimationFrame(step);
}

function seek(seconds) {
  at = Math.min(Math.max(seconds, 0), clip.seconds * (1 - 0.5 / clip.T));
  draw();
}

function frame() {
  return Math.min(clip.T - 1, Math.floor((at / clip.seconds) * clip.T + 1e-6));
}

function draw() {
  if (!clip) return;
  const t = frame();
  const shown = [t, canvas.clientWidth, canvas.clientHeight];
  const key = [...shown, ...Object.values(camera)].join();
  if (key === drawn) return;
  drawn = key;
  time.value = t;
  const seconds = ((t * clip.seconds) / clip.T).toFixed(1);
  clock.textContent = clip.body
    ? `${seconds} / ${clip.seconds.toFixed(1)} s`
    : `${t + 1} / ${clip.T}`;
  time.setAttribute('aria-valuetext', clock.textContent);
  if (clip.pictures.length) show_frame(t);
  if (clip.body) paint(canvas, clip.body, t, camera);
}

function show_frame(t) {
  const share = t / Math.max(1, clip.T - 1);
  const i = Math.round(share * (clip.pictures.length - 1));
  if (frames.children[i].hasAttribute('aria-current')) return;
  now.src = clip.pictures[i];
  now.alt = `Frame ${i + 1} of ${clip.pictures.length} of the video`;
  [...frames.children].forEach((item, k) => {
    if (k === i) item.setAttribute('aria-current', 'true');
    else item.removeAttribute('aria-current');
  });
}

// --- Hands -------------------------------------------------------------------

const pointers = new Map();

canvas.addEventListener('pointerdown', (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
});
canvas.addEventListener('pointermove', (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const wide = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
  };
  const apart = pointers.size === 2 ? wide() : 0;
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
  if (apart) zoom(wide() / apart);
  else if (pointers.size === 1)
    turn((event.clientX - before[0]) / 120, (event.clientY - before[1]) / 160);
});
for (const name of ['pointerup', 'pointercancel']) {
  canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
}
canvas.addEventListener(
  'wheel',
  (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 600));
  },
  {passive: false},
);
canvas.addEventListener('dblclick', () => {
  Object.assign(camera, START);
  draw();
});

function turn(across, up) {
  camera.turn += across;
  camera.lift = Math.min(1.5, Math.max(-0.05, camera.lift + up));
  draw();
}

function zoom(times) {
  camera.near = Math.min(5, Math.max(0.35, camera.near * times));
  draw();
}

canvas.addEventListener('keydown', (event) => {
  const tick = clip.seconds / clip.T;
  const middle = (frame() + 0.5) * tick;
  const go = (seconds) => () => {
    stop();
    seek(seconds);
  };
  const plain = {
    ' ': () => (playing ? stop() : start()),
    ArrowLeft: go(middle - tick),
    ArrowRight: go(middle + tick),
    Home: go(0),
    End: go(clip.seconds),
    '+': () => zoom(1.15),
    '=': () => zoom(1.15),
    '-': () => zoom(1 / 1.15),
  };
  const shifted = {
    ArrowLeft: () => turn(-0.15, 0),
    ArrowRight: () => turn(0.15, 0),
    ArrowUp: () => turn(0, 0.1),
    ArrowDown: () => turn(0, -0.1),
  };
  const does = event.shiftKey ? {...plain, ...shifted} : plain;
  if (!does[event.key] || event.ctrlKey || event.metaKey || event.altKey)
    return;
  event.preventDefault();
  does[event.key]();
});
play.addEventListener('click', () => (playing ? stop() : start()));
time.addEventListener('input', () => {
  stop();
  seek(((Number(time.value) + 0.5) * clip.seconds) / clip.T);
});
follow.addEventListener('change', () => {
  camera.follows = follow.checked;
  draw();
});
new ResizeObserver(draw).observe(view);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  drawn = '';
  draw();
});

// --- Files -------------------------------------------------------------------

let given = null; // the last motion, to be read again: arguments of `give`

// What is wrong with a file; '' where it was read. `body` is of an .amc alone; a
// request holds both, one behind the other.
async function give(one, kind, body = null) {
  if (!called(kind).includes(ending(one.name))) {
    const wanted = props.endings[kind].join(', ');
    return `Expected a ${kind} called ${wanted}, found ${one.name}; convert it.`;
  }
  const most = props.most_bytes[kind];
  if (one.size + (body?.size ?? 0) > most) {
    // Nobody waits for it to be sent and refused.
    const megabytes = (most / 2 ** 20).toFixed(0);
    return `Expected at most ${megabytes} MB, found more in ${one.name}; cut it.`;
  }
  say(`Reading ${one.name} …`);
  if (kind === 'motion') given = [one, kind, body];
  again.disabled = !given;
  const query = new URLSearchParams({kind, name: one.name});
  for (const field of element.querySelectorAll('.said [name]')) {
    if (kind === 'motion' && field.value) query.set(field.name, field.value);
  }
  if (body) {
    query.set('body', body.name);
    query.set('body_bytes', body.size);
  }
  const sent = body ? new Blob([one, body]) : one;
  let said;
  try {
    const reply = await fetch(`clip?${query}`, {method: 'POST', body: sent});
    const is_json = reply.headers.get('content-type')?.includes('json');
    said = is_json ? await reply.json() : {error: await reply.text()};
  } catch (error) {
    said = {
      error:
        `Expected ${one.name} to be sent, found the connection closed; ` +
        'try again.',
    };
  }
  if (!said.error) trigger('given', {ticket: said.ticket});
  else if (kind === 'motion') find('details').open = true;
  return said.error ?? '';
}

// One after the other; what is wrong with any is said once all were read.
async function give_each(wanted) {
  const wrong = [];
  for (const one of wanted) wrong.push(await give(...one));
  say(wrong.filter(Boolean).join(' '), true);
}

function say(text, is_error = false) {
  status.textContent = is_error ? '' : text;
  failed.textContent = is_error ? text : '';
}

const ending = (name) => name.slice(name.lastIndexOf('.')).toLowerCase();
// Endings of a medium's files; an .amc comes with another file.
const called = (kind) =>
  props.endings[kind].concat(kind === 'motion' ? props.pair.slice(0, 1) : []);
const kind_of = (name) =>
  props.endings.video?.includes(ending(name)) ? 'video' : 'motion';

async function give_all(files, kind = null) {
  const [angles, of_body] = props.pair;
  const has = (wanted) => files.filter((one) => ending(one.name) === wanted);
  const [motions, bodies] = [has(angles), has(of_body)];
  const is_pair = motions.length === 1 && bodies.length === 1;
  if (motions.length + bodies.length && !is_pair)
    return say(
      `Expected an ${angles} and the ${of_body} of its body, found ` +
        `${motions.length} and ${bodies.length}; choose or drop the two together.`,
      true,
    );
  const wanted = files
    .filter((one) => !bodies.includes(one))
    .map((one) => [
      one,
      kind ?? kind_of(one.name),
      motions.includes(one) ? bodies[0] : null,
    ]);
  for (const medium of Object.keys(props.endings)) {
    // Of others it is said that they are none, one by one.
    const alike = wanted.filter(
      ([one, of]) => of === medium && called(of).includes(ending(one.name)),
    );
    if (alike.length > 1)
      return say(
        `Expected one ${medium} at a time, found ` +
          `${alike.map(([one]) => one.name).join(' and ')}; give one of them.`,
        true,
      );
  }
  await give_each(wanted);
}

for (const button of element.querySelectorAll('.pick')) {
  const kind = button.dataset.kind;
  button.hidden = !(kind in props.endings);
  button.addEventListener('click', () => {
    file.dataset.kind = kind;
    const pair = kind === 'motion' ? props.pair : [];
    file.accept = [...props.endings[kind], ...pair].join();
    file.multiple = kind === 'motion';
    file.click();
  });
}
find('.give details').hidden = !('motion' in props.endings);
file.addEventListener('change', async () => {
  await give_all([...file.files], file.dataset.kind);
  file.value = '';
});
again.addEventListener('click', () => give_each([given]));
element.addEventListener('dragover', (event) => {
  event.preventDefault();
  view.classList.add('over');
});
element.addEventListener('dragleave', (event) => {
  if (!element.contains(event.relatedTarget)) view.classList.remove('over');
});
element.addEventListener('drop', async (event) => {
  event.preventDefault();
  view.classList.remove('over');
  await give_all([...event.dataTransfer.files]);
});

// --- Examples ----------------------------------------------------------------

find('.examples').replaceChildren(
  ...props.examples.map((example, number) => {
    const button = document.createElement('button');
    const kind = document.createElement('small');
    button.type = 'button';
    kind.textContent = example.kind;
    button.append(kind, example.question);
    button.addEventListener('click', () => {
      say('');
      trigger('example', {number});
    });
    return button;
  }),
);

// Where only something is wrong, all that is shown stays as it is.
watch('value', () => {
  if (props.value.wrong) say(props.value.wrong, true);
  else show(props.value);
});
show(props.value);
