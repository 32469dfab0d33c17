// Draws a body on a floor, seen by a camera: a skeleton of motion/skeleton.py
// on a canvas of two dimensions, without any library.
//
//   paint(canvas, decode(motion), t, {turn, lift, near, follows})
//
// Metres, y up; angles in radians. Colours are those that the style sheet gives
// the canvas: --left, --right and --trunk, --rim, --grid, --path, --shadow.

const JOINTS = 22;
const BONE_M = 0.05;
const HEAD_M = 0.105;
// The floor's lines are so far apart, and so many to each side of the camera.
const GRID_M = 0.5;
const CELLS = 9;

// What clip.as_shown tells of a motion, with joints as [T, 22, 3].
function decode(motion) {
  const bytes = Uint8Array.from(atob(motion.joints), (c) => c.charCodeAt(0));
  const joints = new Float32Array(bytes.buffer);
  const low = [Infinity, Infinity, Infinity];
  const high = [-Infinity, -Infinity, -Infinity];
  joints.forEach((x, i) => {
    low[i % 3] = Math.min(low[i % 3], x);
    high[i % 3] = Math.max(high[i % 3], x);
  });
  return {
    ...motion,
    joints,
    T: joints.length / (3 * JOINTS),
    middle: low.map((x, i) => (x + high[i]) / 2),
    reach: Math.max(1.1, 0.55 * Math.hypot(high[0] - low[0], high[2] - low[2])),
  };
}

function paint(canvas, body, t, camera) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width) return;
  canvas.width = Math.round(width * ratio); // Which wipes it, too.
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext('2d');
  const style = getComputedStyle(canvas);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.lineCap = pen.lineJoin = 'round';
  const scene = {
    pen,
    body,
    t,
    joint: (j, s = t) => {
      const first = 3 * (s * JOINTS + j);
      return body.joints.subarray(first, first + 3);
    },
    colour: (name) => style.getPropertyValue(name).trim(),
    line: (points, wide, colour) => {
      pen.lineWidth = wide;
      pen.strokeStyle = colour;
      pen.beginPath();
      points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.stroke();
    },
  };
  const [x, , z] = scene.joint(0);
  const [middle, , end] = body.middle;
  scene.reach = camera.follows ? 1.15 : body.reach;
  scene.target = camera.follows ? [x, 0.85, z] : [middle, 0.75, end];
  scene.see = eye(scene, camera, width, height);
  paint_floor(scene);
  paint_path(scene);
  paint_shadow(scene);
  paint_body(scene);
}

// A function from a point in metres to pixels, to how many of them a metre has
// there, and to how far away that is.
function eye({reach, target}, camera, width, height) {
  const away = (5.2 * reach) / camera.near;
  const scale = 2.7 * Math.min(width, 0.95 * height);
  const [ct, st] = [Math.cos(camera.turn), Math.sin(camera.turn)];
  const [cl, sl] = [Math.cos(camera.lift), Math.sin(camera.lift)];
  return (x, y, z) => {
    [x, y, z] = [x - target[0], y - target[1], z - target[2]];
    const [side, front] = [ct * x - st * z, st * x + ct * z];
    const depth = away - (sl * y + cl * front);
    const size = scale / Math.max(depth, 0.3);
    const up = cl * y - sl * front;
    return [width / 2 + side * size, height / 2 - up * size, size, depth];
  };
}

// It ends in mist.
function paint_floor({pen, reach, target, see, colour, line}) {
  const cell = GRID_M * Math.max(1, reach / 1.6);
  const [x0, , z0] = target.map((x) => Math.round(x / cell) * cell);
  for (let i = -CELLS; i <= CELLS; i++) {
    for (let k = -CELLS; k < CELLS; k++) {
      pen.globalAlpha = Math.max(0, 1 - Math.hypot(i, k + 0.5) / CELLS);
      const [a, b, c] = [i * cell, k * cell, (k + 1) * cell];
      const across = [see(x0 + a, 0, z0 + b), see(x0 + a, 0, z0 + c)];
      const along = [see(x0 + b, 0, z0 + a), see(x0 + c, 0, z0 + a)];
      line(across, 1, colour('--grid'));
      line(along, 1, colour('--grid'));
    }
  }
}

// Where it has been, and paler where it will go.
function paint_path({pen, body, t, joint, see, colour, line}) {
  const way = (from, to) =>
    Array.from({length: to - from + 1}, (_, s) => {
      const [x, , z] = joint(0, from + s);
      return see(x, 0, z);
    });
  pen.globalAlpha = 0.25;
  line(way(t, body.T - 1), 2, colour('--path'));
  pen.globalAlpha = 0.9;
  line(way(0, t), 2, colour('--path'));
}

// Straight below it, in one go: what is twice in it is no darker.
function paint_shadow({pen, body, joint, see, colour}) {
  pen.globalAlpha = 0.13;
  pen.beginPath();
  for (const {joints} of body.limbs) {
    joints.forEach((j, i) => {
      const [x, , z] = joint(j);
      const [right, down] = see(x, 0, z);
      if (i) pen.lineTo(right, down);
      else pen.moveTo(right, down);
    });
  }
  const [x, , z] = joint(0);
  pen.lineWidth = 0.1 * see(x, 0, z)[2];
  pen.strokeStyle = colour('--shadow');
  pen.stroke();
  pen.globalAlpha = 1;
}

// The farthest part first, each with a rim that parts it from what is behind.
function paint_body({pen, body, joint, see, colour, line}) {
  const seen = Array.from({length: JOINTS}, (_, j) => see(...joint(j)));
  const mean = (joints, k) =>
    joints.reduce((sum, j) => sum + seen[j][k], 0) / joints.length;
  const limbs = body.limbs.map(({side, joints}) => ({
    depth: mean(joints, 3),
    draw: () => {
      const points = joints.map((j) => seen[j]);
      const wide = BONE_M * mean(joints, 2);
      line(points, wide + 3, colour('--rim'));
      line(points, wide, colour(`--${side}`));
    },
  }));
  const torso = {
    depth: mean(body.torso, 3) + 0.05,
    draw: () => {
      const points = [...body.torso, body.torso[0]].map((j) => seen[j]);
      pen.globalAlpha = 0.35;
      pen.fillStyle = colour('--trunk');
      line(points, 0.5, colour('--rim'));
      pen.fill();
      pen.globalAlpha = 1;
    },
  };
  const [x, y, size, depth] = seen[body.head];
  const head = {
    depth: depth - 0.01,
    draw: () => {
      pen.beginPath();
      pen.arc(x, y - 0.03 * size, HEAD_M * size, 0, 2 * Math.PI);
      pen.lineWidth = 3;
      pen.strokeStyle = colour('--rim');
      pen.stroke();
      pen.fillStyle = colour('--trunk');
      pen.fill();
    },
  };
  const parts = [...limbs, torso, head];
  parts.sort((a, b) => b.depth - a.depth).forEach((part) => part.draw());
}
